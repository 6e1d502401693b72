//! Room to work in: a random-access file that becomes a blob, and a directory that does not.

use std::fs::File;
use std::path::Path;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::hash::digest_file;
use crate::file::temporary::Temporary;
use crate::store::Store;

/// A file to be written in any order and then committed as a blob. Dropped before that, it leaves
/// nothing.
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

    /// A path to name in messages: the file's own, or the directory of one without a name.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Hashes the file, makes it durable under its digest and returns digest and size in bytes.
    /// Holes stay holes.
    ///
    /// # Errors
    /// When it cannot be read back, synced or linked.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let (digest, size) = digest_file(self.temporary.file(), self.temporary.path())?;
        self.store.hold_blob(&digest)?;
        self.temporary
            .publish(&self.store.blob_path(&digest), size)?;
        Ok((digest, size))
    }
}

/// A directory in `tmp/` for what needs real file names. It is removed when dropped, or by the
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
    /// A file to be written in any order.
    ///
    /// # Errors
    /// When no file can be created in `tmp/`.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Ok(Scratch {
            store: self.clone(),
            temporary: self.temporary().create()?,
        })
    }

    /// A directory to work in.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn scratch_dir(&self) -> Result<ScratchDir, StoreError> {
        let (dir, lock) = self.temporary().create_dir()?;
        Ok(ScratchDir { dir, _lock: lock })
    }
}
