use std::cell::Cell;

use microagent_tree::{MAX_APPARENT, MAX_FILES};

use super::RootFsError;

/// Limits of what is read from a file system: each of its blocks is needed once, so more reads than
/// that mean that structures refer to each other in circles, or to the same content many times.
#[derive(Debug)]
pub(super) struct Budget {
    metadata: Cell<u64>,
    data: Cell<u64>,
    files: Cell<u64>,
    apparent: Cell<u64>,
}

impl Budget {
    /// That of a file system of `blocks` blocks.
    pub(super) fn new(blocks: u64) -> Budget {
        Budget {
            // A path is looked up several times, and two names may share a block of attributes.
            metadata: Cell::new(blocks.saturating_mul(4).saturating_add(1 << 16)),
            data: Cell::new(blocks.saturating_add(1)),
            files: Cell::new(MAX_FILES),
            apparent: Cell::new(MAX_APPARENT),
        }
    }

    /// One block of a directory, of attributes or of an extent tree.
    pub(super) fn metadata(&self) -> Result<(), RootFsError> {
        take(&self.metadata, 1, "its metadata is circular")
    }

    /// Blocks of content.
    pub(super) fn data(&self, blocks: u64) -> Result<(), RootFsError> {
        take(&self.data, blocks, "files share their content")
    }

    /// A file of this size.
    pub(super) fn file(&self, size: u64) -> Result<(), RootFsError> {
        take(&self.files, 1, "it has too many files")?;
        take(&self.apparent, size, "its files are too large")
    }
}

fn take(left: &Cell<u64>, count: u64, why: &str) -> Result<(), RootFsError> {
    let rest = left.get().checked_sub(count);
    left.set(rest.ok_or_else(|| RootFsError::damaged(why))?);
    Ok(())
}
