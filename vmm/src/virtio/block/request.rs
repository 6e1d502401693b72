//! Requests: `struct virtio_blk_req` (virtio 1.2 section 5.2.6).
//!
//! Device-readable: a header of 16 bytes (type, reserved, sector), then the data of a write.
//! Device-writable: the data of a read, then one status byte. The driver may split these over
//! descriptors in any way (section 2.7.4). The data of a discard or write-zeroes request is a list
//! of ranges.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use microagent_proto::warning::DiskOperation;

use super::config::MAX_RANGES;
use crate::virtio::Segments;
use crate::virtio::chain::Buffers;

const HEADER_LEN: usize = 16;

/// A request that has room for its status.
#[derive(Debug)]
pub struct Request<'m> {
    pub operation: Operation<'m>,
    /// The buffer for the status byte.
    pub status: Segments<'m>,
}

#[derive(Debug)]
pub enum Operation<'m> {
    /// Read, beginning at this sector.
    In { sector: u64, into: Segments<'m> },
    /// Write, beginning at this sector.
    Out { sector: u64, from: Segments<'m> },
    /// Make all completed writes durable.
    Flush,
    /// Discard these ranges; `None` if the list is invalid.
    Discard { ranges: Option<Vec<SectorRange>> },
    /// Fill these ranges with zeros; `None` if the list is invalid.
    WriteZeroes { ranges: Option<Vec<SectorRange>> },
    /// Read the serial number.
    GetId { into: Segments<'m> },
    /// A request type that the device does not support.
    Unsupported,
}

impl Operation<'_> {
    /// The kind of a request that failed on the host. Requests that do not reach the host count as
    /// reads.
    pub fn kind(&self) -> DiskOperation {
        match self {
            Operation::In { .. } | Operation::GetId { .. } | Operation::Unsupported => {
                DiskOperation::Read
            }
            Operation::Out { .. } | Operation::WriteZeroes { .. } => DiskOperation::Write,
            Operation::Flush => DiskOperation::Flush,
            Operation::Discard { .. } => DiskOperation::Discard,
        }
    }
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

    /// Parses a list of ranges: at least one, at most [`MAX_RANGES`].
    fn list(data: &Segments<'_>) -> Option<Vec<SectorRange>> {
        let count = data.len() / Self::LEN;
        if !data.len().is_multiple_of(Self::LEN) || count == 0 || count > MAX_RANGES as usize {
            return None;
        }
        // Parsed from a copy, because the guest may change the original at any time.
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
    /// Parses a request; `None` if the header is incomplete or there is no status byte.
    pub fn parse(buffers: Buffers<'m>) -> Option<Self> {
        let Buffers {
            mut readable,
            mut writable,
        } = buffers;
        let status = writable.split_off(writable.len().checked_sub(1)?);
        let from = readable.split_off(HEADER_LEN);
        // Parsed from a copy, because the guest may change the original at any time.
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
