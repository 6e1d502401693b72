//! One request of a driver: a descriptor chain, validated and converted to buffers.
//!
//! Devices take chains from a queue only with [`Chain::pop_or_rearm`].

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions};

use super::{DeviceError, Segments};

/// A chain taken from the available ring. Its head must be returned with
/// [`Queue::add_used`](virtio_queue::QueueT::add_used), even if the chain is malformed.
#[derive(Debug)]
pub struct Chain<'m> {
    /// The index of the first descriptor, which identifies the chain in the used ring.
    pub head: u16,
    /// The buffers, or why the chain is malformed.
    pub buffers: Result<Buffers<'m>, MalformedChain>,
}

/// The buffers of a chain; all of them are in guest memory.
#[derive(Debug)]
pub struct Buffers<'m> {
    /// Buffers that the device reads.
    pub readable: Segments<'m>,
    /// Buffers that the device writes.
    pub writable: Segments<'m>,
}

/// Why a chain is malformed. Only that request is affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedChain {
    /// It has no last descriptor: it loops, has an invalid descriptor index or indirect table, or
    /// is longer than 4 GiB (virtio 1.2 section 2.7.5).
    #[error("descriptor chain without an end")]
    Unterminated,
    /// It has more descriptors than its queue has entries (section 2.7.5.3.1).
    #[error("descriptor chain longer than its queue")]
    TooLong,
    /// A buffer is not in guest memory.
    #[error("descriptor outside guest memory")]
    OutOfRange,
    /// A device-readable buffer follows a device-writable one (section 2.7.4.2).
    #[error("readable descriptor after a writable one")]
    Order,
}

impl<'m> Chain<'m> {
    /// Takes the next chain from the available ring. If there is none, enables available buffer
    /// notifications and returns `None`; the driver then notifies the device of the next chain.
    ///
    /// This is the device's half of available buffer notification suppression (virtio 1.2 section
    /// 2.7.10). Enabling notifications races with the driver, which may add a chain after the
    /// device found the ring empty but before it sees them enabled, and then does not notify:
    ///
    /// ```text
    /// device                                driver
    /// read avail.idx: nothing new
    ///                                       add a chain, avail.idx += 1
    ///                                       read flags or avail_event: do not notify
    /// enable notifications
    /// full fence, read avail.idx again: there it is
    /// ```
    ///
    /// So the index is read again after enabling, behind a full fence. The driver does the reverse
    /// (section 2.7.13.4.1): it writes the index, then reads whether to notify. At least one of the
    /// two sees the other's write. A chain found by the second read is returned, with notifications
    /// disabled again.
    ///
    /// How they are enabled depends on what was negotiated (section 2.7.10):
    /// - `VIRTIO_F_EVENT_IDX`: `avail_event` in the used ring is set to the index of the next
    ///   chain. The driver notifies once for each value, so there is nothing to disable.
    /// - otherwise: `VIRTQ_USED_F_NO_NOTIFY` in the used ring's flags is cleared, and set to
    ///   disable them.
    ///
    /// `None` therefore means that the device may wait for the queue. A device that stops taking
    /// chains before that must be woken by something else: notifications may be disabled.
    ///
    /// # Errors
    /// When a ring is invalid: the index is more than the queue's size ahead or goes backwards, or
    /// the ring is not in guest memory.
    pub fn pop_or_rearm(
        queue: &mut Queue,
        mem: &'m GuestMemoryMmap,
    ) -> Result<Option<Self>, DeviceError> {
        match Chain::pop(queue, mem)? {
            None => Chain::rearm(queue, mem),
            chain => Ok(chain),
        }
    }

    fn pop(queue: &mut Queue, mem: &'m GuestMemoryMmap) -> Result<Option<Self>, DeviceError> {
        if queue.avail_idx(mem, Ordering::Acquire)?.0 == queue.next_avail() {
            return Ok(None);
        }
        let limit = queue.size();
        let chain = queue.iter(mem)?.next();
        let chain = chain.ok_or(DeviceError::Protocol("cannot read the available ring"))?;
        Ok(Some(Chain {
            head: chain.head_index(),
            buffers: Buffers::collect(chain, mem, limit),
        }))
    }

    /// The second half of [`pop_or_rearm`](Self::pop_or_rearm), after `pop` found nothing.
    fn rearm(queue: &mut Queue, mem: &'m GuestMemoryMmap) -> Result<Option<Self>, DeviceError> {
        // Contains the fence and the second read of the index.
        if !queue.enable_notification(mem)? {
            return Ok(None);
        }
        queue.disable_notification(mem)?;
        // If there is no chain now, the driver moved the index back, or the rings overlap such that
        // enabling notifications changes it. `None` would leave notifications disabled.
        Chain::pop(queue, mem)?
            .map(Some)
            .ok_or(DeviceError::Protocol(
                "the index of an available ring went backwards",
            ))
    }
}

impl<'m> Buffers<'m> {
    fn collect(
        chain: DescriptorChain<&'m GuestMemoryMmap>,
        mem: &'m GuestMemoryMmap,
        limit: u16,
    ) -> Result<Self, MalformedChain> {
        let mut buffers = Buffers {
            readable: Segments::default(),
            writable: Segments::default(),
        };
        let mut ended = false;
        for (count, descriptor) in chain.enumerate() {
            if count >= usize::from(limit) {
                return Err(MalformedChain::TooLong);
            }
            // The iterator also stops at an invalid descriptor. Only the flags of the last one
            // tell whether the chain is complete.
            ended = !descriptor.has_next();
            let side = if descriptor.is_write_only() {
                &mut buffers.writable
            } else if buffers.writable.is_empty() {
                &mut buffers.readable
            } else {
                return Err(MalformedChain::Order);
            };
            let access = if descriptor.is_write_only() {
                Permissions::Write
            } else {
                Permissions::Read
            };
            let slices = mem
                .get_slices(descriptor.addr(), descriptor.len() as usize, access)
                .map_err(|_| MalformedChain::OutOfRange)?;
            for slice in slices {
                side.push(slice.map_err(|_| MalformedChain::OutOfRange)?);
            }
        }
        if ended {
            Ok(buffers)
        } else {
            Err(MalformedChain::Unterminated)
        }
    }
}

#[cfg(test)]
mod tests;
