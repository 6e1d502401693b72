//! Scratch space: a random-access file that becomes a blob, and a temporary directory.

use std::fs::File;
use std::path::Path;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::hash::digest_file;
use crate::file::temporary::Temporary;
use crate::store::Store;

/// A file to be written in any order and then committed as an object. Dropped before that, it
/// stores nothing.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) store: Store,
    pub(crate) temporary: Temporary,
}

impl Scratch {
    /// The file, open for reading and writing.
    pub fn file(&self) -> &File {
        self.temporary.file()
    }

    /// The path for messages: the file's own, or the directory of an unnamed file.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Hashes the file and makes it durable under its digest; returns digest and size in bytes.
    /// Holes are preserved.
    ///
    /// # Errors
    /// When it cannot be read back, synced or linked.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let (digest, size) = digest_file(self.temporary.file(), self.temporary.path())?;
        self.store.hold_blob(&digest)?;
        self.temporary.publish(&self.store.blob_path(&digest))?;
        Ok((digest, size))
    }
}

/// A directory in `tmp/` for programs that need file names. It is removed when dropped, or by the
/// next [`Store::sweep`] after its owner died.
#[derive(Debug)]
pub struct ScratchDir {
    dir: tempfile::TempDir,
    _lock: File,
}

impl ScratchDir {
    /// The directory's absolute path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl AsRef<Path> for ScratchDir {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Store {
    /// Creates a file to be written in any order.
    ///
    /// # Errors
    /// When no file can be created in `tmp/`.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Ok(Scratch {
            store: self.clone(),
            temporary: self.temporary().create()?,
        })
    }

    /// Creates a scratch directory.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn scratch_dir(&self) -> Result<ScratchDir, StoreError> {
        let (dir, lock) = self.temporary().create_dir()?;
        Ok(ScratchDir { dir, _lock: lock })
    }
}
