//! The size of an image: what a tree needs, and the smallest size at which it fits.

use super::BLOCK;
use crate::disk::MIB;
use crate::disk::error::DiskError;
use crate::tar::entry::Segment;
use crate::tree::{InodeKind, Tree};

/// Sizes are multiples of this.
pub(super) const STEP: u64 = MIB;
/// The minimum size of an image: four times the smallest journal.
pub(super) const MIN_IMAGE: u64 = 16 * MIB;
/// The maximum size of an image: block numbers have 32 bits.
pub(super) const MAX_IMAGE: u64 = (u32::MAX as u64 - 1) * BLOCK / STEP * STEP;
/// One spare inode per this many free bytes (the ratio of mke2fs).
const BYTES_PER_INODE: u64 = 16384;
/// The size of a file system's own structures: superblocks, journal.
const OVERHEAD: u64 = 8 * MIB;
const GROUP_BYTES: u64 = 128 * MIB;
/// The maximum number of inodes per 128 MiB. A group may have 32768, but then
/// the tables of sixteen groups, which are adjacent, do not fit one group.
const INODES_PER_GROUP: u64 = 24576;

/// The minimum space and number of inodes for a tree.
pub(super) struct Need {
    pub(super) bytes: u64,
    inodes: u64,
}

impl Need {
    pub(super) fn of(tree: &Tree) -> Need {
        let mut blocks = 0u64;
        let mut inodes = 0u64;
        for inode in tree.named() {
            inodes += 1;
            blocks += match &tree.inode(inode).kind {
                InodeKind::File { content, .. } => {
                    let data = |segment: &Segment| segment.length.div_ceil(BLOCK);
                    content.segments.iter().map(data).sum()
                }
                InodeKind::Directory(_) => 1,
                _ => 0,
            };
        }
        let bytes = (blocks.saturating_mul(BLOCK))
            .saturating_add(inodes * 256)
            .saturating_add(OVERHEAD);
        let groups = inodes.div_ceil(INODES_PER_GROUP);
        Need {
            bytes: bytes.max(groups.saturating_sub(1) * GROUP_BYTES),
            inodes: inodes + 16,
        }
    }

    /// The number of inodes in an image of `size` bytes; `None` if too few fit.
    pub(super) fn inodes_for(&self, size: u64) -> Option<u32> {
        let spare = size.saturating_sub(self.bytes) / BYTES_PER_INODE;
        let room = size.div_ceil(GROUP_BYTES) * INODES_PER_GROUP;
        let inodes = (self.inodes + 64 + spare).min(room);
        u32::try_from(inodes).ok().filter(|_| self.inodes <= room)
    }
}

/// The next larger size to try for a tree that does not fit `size`.
pub(super) fn grown(size: u64) -> u64 {
    size + (size / 8).next_multiple_of(STEP)
}

/// The smallest size above `too_small` for which `fits` holds.
pub(super) fn smallest(
    too_small: u64,
    fits: impl Fn(u64) -> Result<bool, DiskError>,
) -> Result<u64, DiskError> {
    let (mut below, mut above) = (too_small, too_small.max(MIN_IMAGE).next_multiple_of(STEP));
    while !fits(above)? {
        below = above;
        above = grown(above);
    }
    while above - below > STEP {
        let middle = (below + (above - below) / 2).next_multiple_of(STEP);
        match fits(middle)? {
            true => above = middle,
            false => below = middle,
        }
    }
    Ok(above)
}
