//! What a driver asks of a disk: `struct virtio_blk_req` (virtio 1.2 section 5.2.6).
//!
//! Readable: a header of 16 bytes (type, reserved, sector), then the data of a write. Writable: the
//! data of a read, then one status byte. How these are spread over descriptors is the driver's
//! choice (section 2.7.4.3).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use crate::virtio::Segments;
use crate::virtio::chain::Buffers;

const HEADER_LEN: usize = 16;

/// A request that can be answered.
#[derive(Debug)]
pub struct Request<'m> {
    pub operation: Operation<'m>,
    /// Where the one byte of the answer goes.
    pub status: Segments<'m>,
}

#[derive(Debug)]
pub enum Operation<'m> {
    /// Read from this sector on.
    In { sector: u64, into: Segments<'m> },
    /// Write from this sector on.
    Out { sector: u64, from: Segments<'m> },
    /// Make all finished writes durable.
    Flush,
    /// Give the serial number.
    GetId { into: Segments<'m> },
    /// Something this device was not asked to offer.
    Unsupported,
}

impl<'m> Request<'m> {
    /// Takes the buffers apart. `None` when there is no whole header or no status byte.
    pub fn parse(buffers: Buffers<'m>) -> Option<Self> {
        let Buffers {
            mut readable,
            mut writable,
        } = buffers;
        let status = writable.split_off(writable.len().checked_sub(1)?);
        let from = readable.split_off(HEADER_LEN);
        // The header is parsed from a copy: the driver may change it at any time.
        let mut header = [0; HEADER_LEN];
        if readable.copy_to(&mut header) != HEADER_LEN {
            return None;
        }
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        let operation = match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => Operation::In {
                sector,
                into: writable,
            },
            VIRTIO_BLK_T_OUT => Operation::Out { sector, from },
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            VIRTIO_BLK_T_GET_ID => Operation::GetId { into: writable },
            _ => Operation::Unsupported,
        };
        Some(Request { operation, status })
    }
}
