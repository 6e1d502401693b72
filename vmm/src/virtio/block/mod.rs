//! The block device (virtio 1.2 section 5.2).
//!
//! The device parses the requests in its one queue ([`request`]), passes them to a [`Backend`] and
//! completes them. Back ends handle bytes and offsets and do not depend on virtio:
//!
//! - [`Raw`]: a raw image, read-only or written in place;
//! - [`Overlay`]: a read-only raw image, and a sparse delta that holds what is written, for the time
//!   of the VM or with a [`Presence`] map for longer.
//!
//! A write is durable when a later flush completes, or when the write itself completes if the
//! driver did not accept `VIRTIO_BLK_F_FLUSH`. If writes need not outlive the VM
//! ([`Backend::durable`] is false), the feature is not offered, so that guests do not wait for
//! flushes.

mod backend;
mod config;
mod failure;
mod open;
mod request;
mod slot;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use microagent_proto::control::DiskStats;
use microagent_proto::warning::DiskOperation;

use super::device::copy_config;
use super::serve::serve_queue_while;
use super::{DeviceError, DeviceIo, VirtioDevice};
pub use backend::{Backend, Overlay, Presence, PresenceError, Raw};
use config::{MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, config};
use failure::Failures;
pub use open::{BlockError, lock, open};
use request::{Operation, Request, SectorRange};
pub use slot::{IncompatibleBackend, Slot};

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 2;

/// The unit of sector numbers and of the capacity, in bytes. It does not depend on the block size
/// (section 5.2.5).
pub const SECTOR: u64 = 512;

const QUEUE_SIZES: [u16; 1] = [256];

/// A block device.
#[derive(Debug)]
pub struct Block {
    backend: Box<dyn Backend>,
    /// The driver did not accept flush requests, so every write is flushed.
    write_through: bool,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    slot: Option<Slot>,
    failures: Failures,
    counters: Arc<Counters>,
}

/// What the guest has read and written. Requests that failed do not count.
#[derive(Debug, Default)]
pub struct Counters {
    read: AtomicU64,
    written: AtomicU64,
}

impl Counters {
    /// The bytes so far.
    pub fn get(&self) -> DiskStats {
        DiskStats {
            read_bytes: self.read.load(Ordering::Relaxed),
            written_bytes: self.written.load(Ordering::Relaxed),
        }
    }
}

impl Block {
    /// A device with this back end. `id` is the serial number that the guest reads; only the first
    /// 20 bytes are used.
    pub fn new(backend: Box<dyn Backend>, id: &str) -> Block {
        let mut bytes = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Block {
            backend,
            write_through: false,
            id: bytes,
            slot: None,
            failures: Failures::default(),
            counters: Arc::default(),
        }
    }

    /// What the guest reads and writes, also while it does.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The capacity, in sectors.
    pub fn sectors(&self) -> u64 {
        self.backend.size() / SECTOR
    }

    /// Calls `report` when a request fails on the host, before the guest receives the error: once
    /// for each kind of request.
    pub fn report_failures(
        &mut self,
        report: impl FnMut(DiskOperation, &io::Error) + Send + 'static,
    ) {
        self.failures.report_to(report);
    }

    /// A device whose back end can be replaced through the [`Slot`].
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn with_slot(backend: Box<dyn Backend>, id: &str) -> io::Result<(Block, Slot)> {
        let slot = Slot::for_backend(&*backend)?;
        let mut block = Block::new(backend, id);
        block.slot = Some(slot.clone());
        Ok((block, slot))
    }

    /// Switches to the back end that was attached since the last call, if any; returns whether the
    /// size of the disk has changed.
    fn swap_backend(&mut self) -> bool {
        let Some(backend) = self.slot.as_ref().and_then(Slot::take) else {
            return false;
        };
        let before = std::mem::replace(&mut self.backend, backend);
        before.size() != self.backend.size()
    }

    /// Completes one request; returns the number of bytes written to guest memory.
    fn serve(&mut self, request: Request<'_>) -> u32 {
        let kind = request.operation.kind();
        let (status, written) = match self.perform(request.operation) {
            Ok(Outcome::Ok { written }) => (VIRTIO_BLK_S_OK, written),
            Ok(Outcome::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Ok(Outcome::Failed) => (VIRTIO_BLK_S_IOERR, 0),
            Err(error) => {
                self.failures.failed(kind, &error);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        request.status.copy_from(&[status as u8]);
        // The chain is at most 4 GiB long, data and status together.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    /// Whether a request may take so long that the driver must be notified of the completed ones
    /// before it.
    fn is_slow(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Flush => self.backend.durable(),
            Operation::Out { .. } => self.write_through,
            Operation::Discard { .. } | Operation::WriteZeroes { .. } => true,
            Operation::In { .. } | Operation::GetId { .. } | Operation::Unsupported => false,
        }
    }

    fn perform(&mut self, operation: Operation<'_>) -> io::Result<Outcome> {
        let writable = !self.backend.read_only();
        let done = Outcome::Ok { written: 0 };
        match operation {
            Operation::In { sector, into } => {
                let written = into.len();
                let Some(offset) = self.range(sector, written as u64) else {
                    return Ok(Outcome::Failed);
                };
                self.backend.read_at(into, offset)?;
                (self.counters.read).fetch_add(written as u64, Ordering::Relaxed);
                Ok(Outcome::Ok { written })
            }
            Operation::Out { sector, from } => {
                let length = from.len() as u64;
                match self.range(sector, length) {
                    Some(offset) if writable => {
                        self.backend.write_at(from, offset)?;
                        (self.counters.written).fetch_add(length, Ordering::Relaxed);
                        self.written()
                    }
                    _ => Ok(Outcome::Failed),
                }
            }
            Operation::Discard { ranges } if writable => {
                let ranges = match self.ranges(ranges, 0, MAX_DISCARD_SECTORS) {
                    Ok(ranges) => ranges,
                    Err(outcome) => return Ok(outcome),
                };
                for (offset, len, _) in ranges {
                    self.backend.discard(offset, len)?;
                }
                Ok(done)
            }
            Operation::WriteZeroes { ranges } if writable => {
                let known = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                let ranges = match self.ranges(ranges, known, MAX_WRITE_ZEROES_SECTORS) {
                    Ok(ranges) => ranges,
                    Err(outcome) => return Ok(outcome),
                };
                for (offset, len, flags) in ranges {
                    self.backend.write_zeroes(offset, len, flags != 0)?;
                }
                self.written()
            }
            Operation::Flush if self.backend.durable() => self.backend.flush().map(|()| done),
            Operation::GetId { into } => Ok(Outcome::Ok {
                written: into.copy_from(&self.id),
            }),
            Operation::Discard { .. }
            | Operation::WriteZeroes { .. }
            | Operation::Flush
            | Operation::Unsupported => Ok(Outcome::Unsupported),
        }
    }

    /// Completes a write: flushes it if the driver does not flush (section 5.2.6.2).
    fn written(&mut self) -> io::Result<Outcome> {
        if self.write_through {
            self.backend.flush()?;
        }
        Ok(Outcome::Ok { written: 0 })
    }

    /// Offset, length and flags of each range. All ranges are validated before any is changed.
    /// Flags other than `known` are unsupported (section 5.2.6.2).
    fn ranges(
        &self,
        ranges: Option<Vec<SectorRange>>,
        known: u32,
        max: u32,
    ) -> Result<Vec<(u64, u64, u32)>, Outcome> {
        let ranges = ranges.ok_or(Outcome::Failed)?;
        if ranges.iter().any(|range| range.flags & !known != 0) {
            return Err(Outcome::Unsupported);
        }
        let checked = ranges.iter().map(|range| {
            let len = u64::from(range.count) * SECTOR;
            let offset = self.range(range.sector, len)?;
            (range.count <= max).then_some((offset, len, range.flags))
        });
        let checked: Option<Vec<_>> = checked.collect();
        let mut checked = checked.ok_or(Outcome::Failed)?;
        checked.retain(|&(_, len, _)| len > 0);
        Ok(checked)
    }

    /// The byte offset of a range, if it is within the disk and its length is whole sectors.
    fn range(&self, sector: u64, len: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(len)?;
        (end <= self.backend.size() && len.is_multiple_of(SECTOR)).then_some(offset)
    }
}

/// The result of a request, other than a host error.
enum Outcome {
    /// Success; `written` is the number of bytes written to guest memory, without the status.
    Ok {
        written: usize,
    },
    Failed,
    Unsupported,
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn features(&self) -> u64 {
        let mut features =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_TOPOLOGY;
        features |= if self.backend.read_only() {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        if self.backend.durable() {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = config(self.backend.size());
        copy_config(&config, offset, data);
    }

    fn acknowledge(&mut self, features: u64) {
        self.write_through = self.backend.durable() && features >> VIRTIO_BLK_F_FLUSH & 1 == 0;
    }

    fn activate(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        self.backend_event(io)
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        self.slot.as_ref().map(Slot::poll_fd)
    }

    fn backend_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        if self.swap_backend() {
            io.config_changed();
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.backend.flush()
    }

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        let Some((queue, mem)) = io.queue(index) else {
            return Ok(());
        };
        let (mut completed, mut resized, mut paused) = (false, false, false);
        let mut served = serve_queue_while(queue, mem, |buffers| {
            // After the chain was taken: a request that was made available after
            // [`Slot::attach`] goes to the new back end.
            resized |= self.swap_backend();
            let request = buffers.ok().and_then(Request::parse);
            if completed && request.as_ref().is_some_and(|next| self.is_slow(next)) {
                paused = true;
                return None;
            }
            completed = true;
            // Without a status byte, nothing can be reported; the chain is returned unchanged.
            Some(request.map_or(0, |request| self.serve(request)))
        })?;
        if resized {
            io.config_changed();
        }
        served.more |= paused;
        served.notify(index, io)
    }

    fn reset(&mut self) {}
}
