//! Where the content of a file is.

use mkext4::csum;
use mkext4::spec::{Extent, ExtentHeader, ExtentIdx, extent};

use super::blocks::BLOCK;
use super::{Node, RootFs, RootFsError};

/// The maximum depth of an extent tree (`EXT4_MAX_EXTENT_DEPTH`).
const MAX_DEPTH: u16 = 5;

/// The maximum number of extents of a file: 128 TiB in the largest ones, 4 GiB in single blocks.
const MAX_EXTENTS: usize = 1 << 20;

/// The size of the pieces in which content is read, in bytes.
const PIECE: u64 = 256 << 10;

/// A part of the content of a file.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Data(&'a [u8]),
    /// So many zeros.
    Hole(u64),
}

impl<'a> Part<'a> {
    /// Its bytes, where holes do not belong.
    pub(super) fn bytes(self) -> Result<&'a [u8], RootFsError> {
        match self {
            Part::Data(bytes) => Ok(bytes),
            Part::Hole(_) => Err(RootFsError::damaged("a hole in metadata")),
        }
    }
}

/// Adjacent blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first block in the file.
    pub(super) logical: u64,
    /// The first block on the disk; `None` if it was never written.
    pub(super) physical: Option<u64>,
    /// How many.
    pub(super) len: u64,
}

impl RootFs {
    /// The blocks of a file, sorted, without holes.
    pub(super) fn runs(&self, node: &Node) -> Result<Vec<Run>, RootFsError> {
        let Some(root) = node.inode.extent_root() else {
            return match node.inode.blocks {
                0 => Ok(Vec::new()),
                _ => Err(RootFsError::Unsupported("files without extents".into())),
            };
        };
        let mut runs = Vec::new();
        self.extents(node, root, None, &mut runs)?;
        runs.sort_unstable_by_key(|run| run.logical);
        let overlap = |pair: &[Run]| pair[0].logical + pair[0].len > pair[1].logical;
        match runs.windows(2).any(overlap) {
            true => Err(RootFsError::damaged("overlapping extents")),
            false => Ok(runs),
        }
    }

    fn extents(
        &self,
        node: &Node,
        block: &[u8],
        depth: Option<u16>,
        runs: &mut Vec<Run>,
    ) -> Result<(), RootFsError> {
        let header = ExtentHeader::decode(block)?;
        let capacity = (block.len() - ExtentHeader::LEN) / ExtentHeader::ENTRY_LEN;
        let damaged = || RootFsError::damaged("an extent tree");
        if depth.is_some_and(|depth| depth != header.depth)
            || header.depth > MAX_DEPTH
            || usize::from(header.entries) > capacity
        {
            return Err(damaged());
        }
        for index in 0..usize::from(header.entries) {
            let entry = extent::entry(block, index);
            let Some(below) = header.depth.checked_sub(1) else {
                let extent = Extent::decode(entry);
                if extent.is_empty() || runs.len() >= MAX_EXTENTS {
                    return Err(damaged());
                }
                runs.push(Run {
                    logical: extent.logical.into(),
                    physical: (!extent.is_unwritten()).then_some(extent.start),
                    len: extent.len().into(),
                });
                continue;
            };
            self.budget.metadata()?;
            let child = self.block(ExtentIdx::decode(entry).leaf)?;
            if self.has_checksums() {
                // Linux puts it after the last possible entry, which is the end of the block.
                let stored = child.last_chunk().map(|sum| u32::from_le_bytes(*sum));
                if stored != Some(csum::extent_block(self.inode_seed(node), &child)) {
                    return Err(RootFsError::damaged("an extent tree has a wrong checksum"));
                }
            }
            self.extents(node, &child, Some(below), runs)?;
        }
        Ok(())
    }

    /// Passes the content of a file to `take`, from begin to end.
    pub(super) fn content<E: From<RootFsError>>(
        &self,
        node: &Node,
        take: &mut dyn FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let size = node.inode.size;
        let mut piece = Vec::new();
        let mut offset = 0;
        for run in self.runs(node)? {
            let start = (run.logical * BLOCK).min(size);
            let end = ((run.logical + run.len) * BLOCK).min(size);
            let Some(physical) = run.physical else {
                continue;
            };
            if start > offset {
                take(Part::Hole(start - offset))?;
            }
            offset = start;
            self.budget.data((end - start).div_ceil(BLOCK))?;
            while offset < end {
                let part = (end - offset).min(PIECE);
                piece.resize(part as usize, 0);
                let from = physical.checked_mul(BLOCK);
                let from = from.and_then(|from| from.checked_add(offset - run.logical * BLOCK));
                let from = from.ok_or_else(|| RootFsError::damaged("a block outside the disk"))?;
                self.blocks.read(&mut piece, from)?;
                take(Part::Data(&piece))?;
                offset += part;
            }
        }
        if offset < size {
            take(Part::Hole(size - offset))?;
        }
        Ok(())
    }
}
