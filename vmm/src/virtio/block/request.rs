//! What a driver asks of a disk: `struct virtio_blk_req` (virtio 1.2 section 5.2.6).
//!
//! Readable: a header of 16 bytes (type, reserved, sector), then the data of a write. Writable: the
//! data of a read, then one status byte. How these are spread over descriptors is the driver's
//! choice (section 2.7.4.3). The data of a discard or a write of zeros is a list of ranges.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::config::MAX_RANGES;
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
    /// Give up what these ranges hold; `None` when the list is not one.
    Discard { ranges: Option<Vec<SectorRange>> },
    /// Make these ranges zero; `None` when the list is not one.
    WriteZeroes { ranges: Option<Vec<SectorRange>> },
    /// Give the serial number.
    GetId { into: Segments<'m> },
    /// Something this device was not asked to offer.
    Unsupported,
}

/// `struct virtio_blk_discard_write_zeroes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorRange {
    pub sector: u64,
    pub count: u32,
    pub flags: u32,
}

impl SectorRange {
    const LEN: usize = 16;

    /// The list in `data`: whole ranges, at least one, at most as many as the driver was told.
    fn list(data: &Segments<'_>) -> Option<Vec<SectorRange>> {
        let count = data.len() / Self::LEN;
        if !data.len().is_multiple_of(Self::LEN) || count == 0 || count > MAX_RANGES as usize {
            return None;
        }
        // Parsed from a copy, like the header.
        let mut bytes = vec![0; data.len()];
        data.copy_to(&mut bytes);
        let (ranges, _) = bytes.as_chunks::<{ Self::LEN }>();
        Some(ranges.iter().map(SectorRange::decode).collect())
    }

    fn decode(bytes: &[u8; Self::LEN]) -> SectorRange {
        let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, flags @ ..] = *bytes;
        SectorRange {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            flags: u32::from_le_bytes(flags),
        }
    }
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
            VIRTIO_BLK_T_DISCARD => Operation::Discard {
                ranges: SectorRange::list(&from),
            },
            VIRTIO_BLK_T_WRITE_ZEROES => Operation::WriteZeroes {
                ranges: SectorRange::list(&from),
            },
            VIRTIO_BLK_T_GET_ID => Operation::GetId { into: writable },
            _ => Operation::Unsupported,
        };
        Some(Request { operation, status })
    }
}
