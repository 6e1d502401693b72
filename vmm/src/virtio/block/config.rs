//! The configuration space: `struct virtio_blk_config` (virtio 1.2 section 5.2.4).

use super::{QUEUE_SIZES, SECTOR};

/// The maximum number of data segments in a request: the queue size, less header and status.
pub const SEG_MAX: u32 = QUEUE_SIZES[0] as u32 - 2;

/// The block size that avoids read-modify-write, in bytes: that of overlays and of the file systems
/// that hold images.
pub const PHYSICAL_BLOCK: u32 = 4096;

/// The maximum number of sectors in a range to discard. Large, because most file systems free a
/// range of any length in one step.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// The maximum number of sectors in a range to fill with zeros. Small, because the host may have to
/// write them all, and the device is busy meanwhile.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 15;

/// The maximum number of ranges in a request.
pub const MAX_RANGES: u32 = 16;

/// The length of the configuration space, in bytes.
pub const LEN: usize = 60;

/// The configuration space of a disk of `size` bytes. It contains the fields of all features; a
/// driver does not read those of features that are not offered.
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
    // Topology: logical blocks per physical block (log2), no alignment offset, and the minimum I/O
    // size in logical blocks.
    let blocks = PHYSICAL_BLOCK / SECTOR as u32;
    put(24, &[blocks.ilog2() as u8]);
    put(26, &(blocks as u16).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &blocks.to_le_bytes());
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    // write_zeroes_may_unmap.
    put(56, &[1]);
    config
}
