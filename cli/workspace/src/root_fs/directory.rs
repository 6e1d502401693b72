//! Reading directories.

use mkext4::csum;
use mkext4::spec::{DirentIter, dirent, iflags};

use super::blocks::BLOCK;
use super::content::Run;
use super::{Node, RootFs, RootFsError};

/// The names of one directory, block by block.
#[derive(Debug)]
pub(super) struct Listing {
    node: Node,
    runs: Vec<Run>,
    /// The block that is read next.
    next: u64,
    blocks: u64,
    /// What is left of the last block, the next at the end.
    names: Vec<(Vec<u8>, u32)>,
}

impl RootFs {
    /// The names of a directory and their inode numbers, in the order of the disk.
    pub(super) fn listing(&self, node: &Node) -> Result<Listing, RootFsError> {
        Ok(Listing {
            node: node.clone(),
            runs: self.runs(node)?,
            next: 0,
            blocks: node.inode.size / BLOCK,
            names: Vec::new(),
        })
    }

    /// All names of a directory, sorted.
    pub(super) fn names(&self, node: &Node) -> Result<Vec<(Vec<u8>, u32)>, RootFsError> {
        let mut listing = self.listing(node)?;
        let mut names = Vec::new();
        while let Some(found) = listing.next(self)? {
            names.push(found);
        }
        names.sort_unstable();
        match names.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            true => Err(RootFsError::damaged("a directory has a name twice")),
            false => Ok(names),
        }
    }

    /// The inode number of `name` in a directory.
    pub(super) fn lookup(&self, node: &Node, name: &[u8]) -> Result<Option<u32>, RootFsError> {
        let mut listing = self.listing(node)?;
        while let Some((found, number)) = listing.next(self)? {
            if found == name {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }
}

impl Listing {
    /// The next name, which is none of `.` and `..`.
    pub(super) fn next(&mut self, fs: &RootFs) -> Result<Option<(Vec<u8>, u32)>, RootFsError> {
        while self.names.is_empty() {
            if self.next >= self.blocks {
                return Ok(None);
            }
            self.read_block(fs)?;
            self.next += 1;
        }
        Ok(self.names.pop())
    }

    fn read_block(&mut self, fs: &RootFs) -> Result<(), RootFsError> {
        fs.budget.metadata()?;
        let after = self.runs.partition_point(|run| run.logical <= self.next);
        let run = after.checked_sub(1).and_then(|index| self.runs.get(index));
        let physical = run.and_then(|run| {
            let within = self.next - run.logical;
            (within < run.len).then_some(run.physical?.checked_add(within)?)
        });
        let physical = physical.ok_or_else(|| RootFsError::damaged("a hole in a directory"))?;
        let block = fs.block(physical)?;
        // In an indexed directory, the first block has the dot entries, and blocks of the index are
        // one unused entry: neither has a checksum of entries.
        let is_indexed = self.node.inode.flags & iflags::INDEX != 0;
        let is_index = is_indexed && (self.next == 0 || is_unused(&block));
        if is_index {
            return Ok(());
        }
        if fs.has_checksums() {
            let sum = csum::dirent_block(fs.inode_seed(&self.node), &block);
            if dirent::tail_checksum(&block) != Some(sum) {
                return Err(RootFsError::damaged("a directory has a wrong checksum"));
            }
        }
        for entry in DirentIter::new(&block) {
            let entry = entry?;
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            if entry.name.is_empty() || entry.name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(RootFsError::damaged("a file name"));
            }
            self.names.push((entry.name.to_vec(), entry.inode));
        }
        self.names.reverse();
        Ok(())
    }
}

/// Whether a block of a directory is one entry that is not in use.
fn is_unused(block: &[u8]) -> bool {
    let length = u16::try_from(block.len()).unwrap_or_default().to_le_bytes();
    block.starts_with(&[0; 4]) && block.get(4..6) == Some(&length[..])
}
