//! An incomplete file that is kept on drop, so that a later process can complete it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::file::lock;

/// The minimum size in bytes that is kept; resuming a smaller file saves no time.
const MIN_KEPT: u64 = 1 << 20;

/// An incomplete file, locked by its only writer.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: File,
    path: PathBuf,
    /// Published or discarded: `path` is no longer this file.
    done: bool,
}

impl PartialFile {
    /// Opens or creates the file at `path`; `None` when another writer holds it or has just
    /// published it.
    pub(crate) fn open(path: PathBuf) -> Result<Option<PartialFile>, StoreError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| StoreError::io("open", &path, error))?;
        let free = lock::try_exclusive(&file)
            .map_err(|error| StoreError::io("lock", &path, error))?
            && lock::is_current(&file, &path).unwrap_or(false);
        Ok(free.then_some(PartialFile {
            file,
            path,
            done: false,
        }))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file regardless of its size: its content is wrong or no longer needed.
    pub(crate) fn discard(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.done = true;
    }

    /// Publishes the complete file as `target`.
    pub(crate) fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        if !self.done && size < MIN_KEPT {
            let _ = fs::remove_file(&self.path);
        }
    }
}
