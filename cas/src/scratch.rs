//! Room to work in: a random-access file that becomes a blob, and a directory that does not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::blob::CHUNK;
use crate::store::Store;
use crate::temporary::Temporary;
use crate::{Digest, Hasher, StoreError};

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
        let (digest, size) = hash_file(self.temporary.file(), self.temporary.path())?;
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

/// Digest and size of a whole file. Holes are hashed as the zeros they are, but not read.
pub(crate) fn hash_file(file: &File, path: &Path) -> Result<(Digest, u64), StoreError> {
    let failed = |error: io::Error| StoreError::io("read", path, error);
    let size = file.metadata().map_err(failed)?.len();
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    while offset < size {
        let data = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => size,
            // A file system without SEEK_DATA: everything is data.
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(failed(error.into())),
        };
        if data > offset {
            buffer.fill(0);
            while offset < data.min(size) {
                let part = (data.min(size) - offset).min(CHUNK as u64);
                hasher.update(&buffer[..part as usize]);
                offset += part;
            }
            continue;
        }
        let hole = match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) => hole.min(size),
            Err(Errno::INVAL) => size,
            Err(error) => return Err(failed(error.into())),
        };
        while offset < hole {
            let part = (hole - offset).min(CHUNK as u64) as usize;
            file.read_exact_at(&mut buffer[..part], offset)
                .map_err(failed)?;
            hasher.update(&buffer[..part]);
            offset += part as u64;
        }
    }
    Ok((hasher.finish(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_hashes_like_its_bytes() {
        let file = tempfile::tempfile().unwrap();
        let size = 3 * CHUNK as u64 + 77;
        file.set_len(size).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 2 * CHUNK as u64 - 3).unwrap();
        let mut whole = vec![0; size as usize];
        file.read_exact_at(&mut whole, 0).unwrap();
        let hashed = hash_file(&file, Path::new("sparse")).unwrap();
        assert_eq!(hashed, (Digest::of(&whole), size));
    }

    #[test]
    fn an_empty_file_and_one_hole_hash_like_their_bytes() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(
            hash_file(&file, Path::new("e")).unwrap(),
            (Digest::of(b""), 0)
        );
        file.set_len(100_000).unwrap();
        let zeros = Digest::of(&vec![0; 100_000]);
        assert_eq!(hash_file(&file, Path::new("h")).unwrap(), (zeros, 100_000));
    }
}
