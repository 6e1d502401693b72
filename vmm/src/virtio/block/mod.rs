//! The block device (virtio 1.2 section 5.2).
//!
//! The device takes requests from its one queue ([`request`]), lets a [`Backend`] move the data
//! and completes them; back ends know bytes and offsets and nothing of virtio:
//!
//! - [`Raw`]: a raw image, read-only or written in place;
//! - [`Overlay`]: a raw image that is only read, under a sparse delta that takes the writes.
//!
//! A write is durable once a flush that follows it is done. Where writes are not meant to last
//! ([`Backend::durable`] is false) flushing is not offered, so that guests do not wait for it.

mod backend;
mod open;
mod request;
#[cfg(test)]
mod tests;

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
};

use super::chain::{Buffers, serve_queue};
use super::{DeviceError, DeviceIo, VirtioDevice};
pub use backend::{Backend, Overlay, Raw};
pub use open::{BlockError, lock, open};
use request::{Operation, Request};

/// The device type (virtio 1.2 section 5).
const TYPE: u32 = 2;

/// The unit of sector numbers and of the capacity, in bytes, whatever the block size (section
/// 5.2.6).
pub const SECTOR: u64 = 512;

const QUEUE_SIZES: [u16; 1] = [256];

/// Data segments a request may have: a chain as long as the queue, less header and status.
const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;

/// A block device.
#[derive(Debug)]
pub struct Block {
    backend: Box<dyn Backend>,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

impl Block {
    /// A device on this back end. `id` is what the guest finds as the disk's serial number; at
    /// most 20 bytes of it.
    pub fn new(backend: Box<dyn Backend>, id: &str) -> Block {
        let mut bytes = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in bytes.iter_mut().zip(id.bytes()) {
            *to = from;
        }
        Block { backend, id: bytes }
    }

    /// The configuration space: `struct virtio_blk_config` (section 5.2.4) up to the block size.
    fn config(&self) -> [u8; 24] {
        let mut config = [0; 24];
        config[0..8].copy_from_slice(&(self.backend.size() / SECTOR).to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        config
    }

    /// Serves one request; returns how many bytes of guest memory were written.
    fn serve(&mut self, buffers: Buffers<'_>) -> u32 {
        // Without a status byte there is no way to answer; the chain goes back as it is.
        let Some(request) = Request::parse(buffers) else {
            return 0;
        };
        let (result, written) = match request.operation {
            Operation::In { sector, into } => {
                let len = into.len();
                match self.range(sector, len) {
                    Some(offset) => (self.backend.read_at(into, offset).map(|()| Answer::Ok), len),
                    None => (Ok(Answer::Failed), 0),
                }
            }
            Operation::Out { sector, from } => match self.range(sector, from.len()) {
                Some(_) if self.backend.read_only() => (Ok(Answer::Failed), 0),
                Some(offset) => (self.backend.write_at(from, offset).map(|()| Answer::Ok), 0),
                None => (Ok(Answer::Failed), 0),
            },
            Operation::Flush if self.backend.durable() => {
                (self.backend.flush().map(|()| Answer::Ok), 0)
            }
            Operation::GetId { into } => (Ok(Answer::Ok), into.copy_from(&self.id)),
            Operation::Flush | Operation::Unsupported => (Ok(Answer::Unsupported), 0),
        };
        let (status, written) = match result {
            Ok(Answer::Ok) => (VIRTIO_BLK_S_OK, written),
            Ok(Answer::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
            Ok(Answer::Failed) => (VIRTIO_BLK_S_IOERR, 0),
            Err(error) => {
                report(&error);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        request.status.copy_from(&[status as u8]);
        // The chain is at most 4 GiB long, data and status together.
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }

    /// The byte offset of a range that lies within the disk and is whole sectors.
    fn range(&self, sector: u64, len: usize) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(len as u64)?;
        (end <= self.backend.size() && (len as u64).is_multiple_of(SECTOR)).then_some(offset)
    }
}

enum Answer {
    Ok,
    Failed,
    Unsupported,
}

/// A guest can make a full disk fail as often as it likes, so each process says it once.
fn report(error: &io::Error) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| tracing::warn!("a disk request failed on the host: {error}"));
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        TYPE
    }

    fn features(&self) -> u64 {
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        if self.backend.read_only() {
            features |= 1 << VIRTIO_BLK_F_RO;
        }
        if self.backend.durable() {
            features |= 1 << VIRTIO_BLK_F_FLUSH;
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        let from = usize::try_from(offset)
            .ok()
            .and_then(|at| config.get(at..))
            .unwrap_or(&[]);
        data.fill(0);
        for (to, from) in data.iter_mut().zip(from) {
            *to = *from;
        }
    }

    fn acknowledge(&mut self, _features: u64) {
        // Without VIRTIO_BLK_F_FLUSH the device is to be write-through (section 5.2.6.2); a driver
        // that leaves out a flush it was offered also leaves out durability.
    }

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        loop {
            let Some((queue, mem)) = io.queue(index) else {
                return Ok(());
            };
            let served = serve_queue(queue, mem, |buffers| match buffers {
                Ok(buffers) => self.serve(buffers),
                Err(_) => 0,
            })?;
            if served.any {
                io.notify(index)?;
            }
            if !served.more {
                return Ok(());
            }
        }
    }

    fn reset(&mut self) {}
}
