//! The registers of one queue. They are validated together when the driver enables the queue.
//!
//! ```text
//! programmed ── QueueReady = 1, all valid ──▶ ready ── QueueReady = 0 ──▶ programmed
//!     ▲                                         │
//!     └─ QueueReset = 1, device reset (defaults)┘
//! ```
//! An invalid queue is not enabled: `QueueReady` still reads as zero. While a queue is ready,
//! writes to its size and addresses are ignored (virtio 1.2 section 4.2.2.2).

use std::io;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::virtio::describe_queue;

/// The three parts of a queue, in the order of their registers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ring {
    Descriptors,
    Available,
    Used,
}

/// One queue and its registers.
#[derive(Debug)]
pub(super) struct QueueRegisters {
    queue: Queue,
    size: u32,
    /// Guest addresses, by [`Ring`].
    rings: [u64; 3],
}

/// The registers and positions of a queue: size, addresses, whether it is ready, and then the indices
/// of the next available and used elements.
pub(super) type Saved = [u64; 7];

/// Why a queue cannot be enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueueError {
    /// The size must be a power of two (virtio 1.2 section 2.7) and at most `QueueSizeMax` (section
    /// 4.2.2).
    #[error("its size is zero, not a power of two, or above the maximum")]
    Size,
    /// The alignments are 16, 2 and 4 bytes (virtio 1.2 section 2.7).
    #[error("misaligned ring")]
    Alignment,
    /// A ring is not completely in guest memory.
    #[error("ring outside guest memory")]
    Outside,
    /// A saved index of a ring has more than 16 bits.
    #[error("index of more than 16 bits")]
    Index,
}

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> io::Result<QueueRegisters> {
        Ok(QueueRegisters {
            queue: Queue::new(max_size).map_err(io::Error::other)?,
            size: max_size.into(),
            rings: [0; 3],
        })
    }

    pub(super) fn max_size(&self) -> u16 {
        self.queue.max_size()
    }

    pub(super) fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// The queue's state as one line, for diagnostics.
    pub(super) fn describe(&self, memory: &GuestMemoryMmap) -> String {
        describe_queue(&self.queue, Some(memory))
    }

    /// The queue, if it is ready.
    pub(super) fn queue(&mut self) -> Option<&mut Queue> {
        Some(&mut self.queue).filter(|queue| queue.ready())
    }

    pub(super) fn set_size(&mut self, size: u32) {
        if !self.ready() {
            self.size = size;
        }
    }

    /// Sets the low or high half of an address.
    pub(super) fn set_address(&mut self, ring: Ring, high: bool, value: u32) {
        if self.ready() {
            return;
        }
        let shift = if high { 32 } else { 0 };
        let address = &mut self.rings[ring as usize];
        *address = *address & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    /// Enables the queue, beginning at index zero of its rings.
    pub(super) fn enable(
        &mut self,
        memory: &GuestMemoryMmap,
        event_idx: bool,
    ) -> Result<(), QueueError> {
        if self.ready() {
            return Ok(());
        }
        let result = self.prepare(memory, event_idx);
        if result.is_err() {
            self.queue.reset();
        }
        result
    }

    fn prepare(&mut self, memory: &GuestMemoryMmap, event_idx: bool) -> Result<(), QueueError> {
        let [descriptors, available, used] = self.rings;
        let size = u16::try_from(self.size).map_err(|_| QueueError::Size)?;
        self.queue
            .try_set_size(size)
            .map_err(|_| QueueError::Size)?;
        let aligned = |address: u64, to: u64| address.is_multiple_of(to);
        if !(aligned(descriptors, 16) && aligned(available, 2) && aligned(used, 4)) {
            return Err(QueueError::Alignment);
        }
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let (low, high) = halves(descriptors);
        self.queue.set_desc_table_address(low, high);
        let (low, high) = halves(available);
        self.queue.set_avail_ring_address(low, high);
        let (low, high) = halves(used);
        self.queue.set_used_ring_address(low, high);
        self.queue.set_event_idx(event_idx);
        self.queue.set_ready(true);
        if self.queue.is_valid(memory) {
            Ok(())
        } else {
            Err(QueueError::Outside)
        }
    }

    /// The registers and positions, for [`restore`](Self::restore).
    pub(super) fn save(&self) -> Saved {
        let [descriptors, available, used] = self.rings;
        [
            self.size.into(),
            descriptors,
            available,
            used,
            self.ready().into(),
            self.queue.next_avail().into(),
            self.queue.next_used().into(),
        ]
    }

    /// Sets what was saved. A ready queue is enabled where it was.
    pub(super) fn restore(
        &mut self,
        saved: &Saved,
        memory: &GuestMemoryMmap,
        event_idx: bool,
    ) -> Result<(), QueueError> {
        let &[
            size,
            descriptors,
            available,
            used,
            ready,
            next_avail,
            next_used,
        ] = saved;
        self.size = u32::try_from(size).map_err(|_| QueueError::Size)?;
        self.rings = [descriptors, available, used];
        if ready == 0 {
            return Ok(());
        }
        self.enable(memory, event_idx)?;
        let index = |index| u16::try_from(index).map_err(|_| QueueError::Index);
        self.queue.set_next_avail(index(next_avail)?);
        self.queue.set_next_used(index(next_used)?);
        Ok(())
    }

    /// `QueueReady` = 0: the device no longer accesses the rings. The size and addresses are kept;
    /// the ring indices are not.
    pub(super) fn stop(&mut self) {
        self.queue.reset();
    }

    /// Restores the defaults (virtio 1.2 section 2.6.1.1).
    pub(super) fn reset(&mut self) {
        self.queue.reset();
        self.size = self.queue.max_size().into();
        self.rings = [0; 3];
    }
}
