//! What a driver reads of a disk: `struct virtio_blk_config` (virtio 1.2 section 5.2.4).

use super::{QUEUE_SIZES, SECTOR};

/// Data segments a request may have: a chain as long as the queue, less header and status.
pub const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;

/// The block that is written without reading the rest of another first, in bytes: that of overlays
/// and of the file systems images are on.
pub const PHYSICAL_BLOCK: u32 = 4096;

/// The most sectors one segment of a discard has. Large, since most file systems free a range
/// however long it is in one step.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// The most sectors one segment of a write of zeros has: the host may have to write them all, and
/// the device serves nothing else meanwhile.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;

/// The most segments of a discard, and of a write of zeros.
pub const MAX_RANGES: u32 = 16;

/// The length of the configuration space, in bytes.
pub const LEN: usize = 60;

/// The configuration space of a disk of so many bytes. The fields of features that are not offered
/// are not read by a driver; they are the same for every disk.
pub fn config(size: u64) -> [u8; LEN] {
    let mut config = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    put(0, &(size / SECTOR).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    // Topology: the physical block as a power of two of logical ones, no offset, and the same as
    // the least that is written at once.
    let blocks = PHYSICAL_BLOCK / SECTOR as u32;
    put(24, &[blocks.ilog2() as u8]);
    put(26, &(blocks as u16).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &blocks.to_le_bytes());
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    // Zeros may be made by freeing the range.
    put(56, &[1]);
    config
}
