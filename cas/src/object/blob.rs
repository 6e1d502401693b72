//! Blobs: written through a hasher, read as open files.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::hash::digest_file;
use crate::file::read;
use crate::file::temporary::Temporary;
use crate::output::Output;
use crate::store::Store;

/// A blob, opened read-only.
#[derive(Debug)]
pub struct Blob {
    /// The open file, positioned at its start.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// Writes a blob sequentially. Dropped without [`BlobWriter::commit`], it stores nothing.
///
/// The [`io::Error`]s of its `write` wrap a [`StoreError`]: see [`StoreError::from_stream`].
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    pub(crate) temporary: Temporary,
    pub(crate) hasher: Hasher,
    pub(crate) size: u64,
    /// The length that an earlier writer left (object/partial.rs).
    pub(crate) left: u64,
}

impl BlobWriter {
    pub(crate) fn new(store: &Store, temporary: Temporary, left: u64) -> BlobWriter {
        BlobWriter {
            store: store.clone(),
            temporary,
            hasher: Hasher::new(),
            size: 0,
            left,
        }
    }

    /// The number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob durable under its digest; returns digest and size in bytes.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when the digest is not `expected`; nothing is kept.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let actual = self.hasher.finish();
        if let Some(&expected) = expected
            && expected != actual
        {
            self.temporary.discard_partial();
            return Err(StoreError::Mismatch { expected, actual });
        }
        self.store.hold_blob(&actual)?;
        self.temporary.publish(&self.store.blob_path(&actual))?;
        Ok((actual, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.temporary.file().write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let path = self.temporary.path();
                return Err(StoreError::io("write to", path, error).into_stream());
            }
            Ok(written) => written,
        };
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// Opens a blob; `None` when it is absent.
    ///
    /// # Errors
    /// When it exists but cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        open(&self.blob_path(digest))
    }

    /// The size of a blob in bytes; `None` when it is absent.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        read::size_of(&self.blob_path(digest))
    }

    /// Reads a small document, holds it ([`Store::hold`]) and verifies it against its digest;
    /// `None` when it is absent. A damaged one is moved to `quarantine/` and absent from then on.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above `limit` bytes.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.hold_blob(digest)?;
        let path = self.blob_path(digest);
        let Some(file) = read::open_if_present(&path)? else {
            return Ok(None);
        };
        match self.read_blob_unheld(digest, limit) {
            Err(StoreError::Corrupt { .. }) => {
                self.quarantine(&Output::Blob(*digest), &file, &path)?;
                Ok(None)
            }
            result => result,
        }
    }

    /// Like [`Store::read_blob`], without holding the document; a damaged one is an error.
    pub(crate) fn read_blob_unheld(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        let Some(bytes) = read::read_small(&path, limit)? else {
            return Ok(None);
        };
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(Some(bytes)),
            actual => Err(corrupt(&path, &actual)),
        }
    }

    /// Verifies a blob of any size against its digest; returns its size in bytes, or `None` when
    /// it is absent.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the digest does not match.
    pub fn verify_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        let Some(file) = read::open_if_present(&path)? else {
            return Ok(None);
        };
        let (actual, size) = digest_file(&file, &path)?;
        if actual == *digest {
            Ok(Some(size))
        } else {
            Err(corrupt(&path, &actual))
        }
    }

    /// Stores `bytes` as a blob.
    ///
    /// # Errors
    /// When the blob cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.hold_blob(&digest)?;
        if let Ok(Some(_)) = self.read_blob_unheld(&digest, bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(|error| StoreError::io("write", &self.blob_path(&digest), error))?;
        writer.commit(Some(&digest)).map(|(digest, _)| digest)
    }

    /// Creates a writer for a blob.
    ///
    /// # Errors
    /// When no file can be created in `tmp/`.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let temporary = self.temporary().create()?;
        Ok(BlobWriter::new(self, temporary, 0))
    }
}

pub(crate) fn corrupt(path: &Path, actual: &Digest) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        why: format!("digest mismatch: got {actual}"),
    }
}

/// Opens a file of the store; `None` when it is absent.
pub(crate) fn open(path: &Path) -> Result<Option<Blob>, StoreError> {
    let Some(file) = read::open_if_present(path)? else {
        return Ok(None);
    };
    let metadata = file
        .metadata()
        .map_err(|error| StoreError::io("inspect", path, error))?;
    Ok(Some(Blob {
        file,
        size: metadata.len(),
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(store: &Store, dir: &str) -> usize {
        fs::read_dir(store.root().join(dir)).unwrap().count()
    }

    /// A store with unnamed temporary files and one with named ones.
    fn stores() -> [(tempfile::TempDir, Store, bool); 2] {
        [true, false].map(|unnamed| {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open_with(&dir.path().join("cas"), unnamed).unwrap();
            (dir, store, unnamed)
        })
    }

    #[test]
    fn a_blob_is_absent_until_it_is_complete() {
        for (_dir, store, unnamed) in stores() {
            let mut writer = store.writer().unwrap();
            writer.write_all(b"bytes").unwrap();
            assert_eq!(names(&store, "tmp"), usize::from(!unnamed));
            assert_eq!(names(&store, "blobs/sha256"), 0);
            let (digest, _) = writer.commit(None).unwrap();
            let metadata = fs::metadata(store.blob_path(&digest)).unwrap();
            assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o444, 1));
            assert_eq!(names(&store, "tmp"), 0);

            let mut writer = store.writer().unwrap();
            writer.write_all(b"dropped").unwrap();
            drop(writer);
            assert_eq!(
                (names(&store, "tmp"), names(&store, "blobs/sha256")),
                (0, 1)
            );
        }
    }

    #[test]
    fn concurrent_writers_of_one_blob_all_succeed() {
        for (_dir, store, _) in stores() {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| store.put_bytes(&[7; 100_000]).unwrap());
                }
            });
            assert_eq!(
                (names(&store, "tmp"), names(&store, "blobs/sha256")),
                (0, 1)
            );
        }
    }

    #[test]
    fn a_lease_lasts_until_the_store_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("cas");
        let observer = Store::open(&root).unwrap();
        let leases = || names(&observer, "leases");
        assert_eq!(leases(), 0, "opening a store does not create a lease");

        let store = Store::open(&root).unwrap();
        let digest = store.put_bytes(b"held").unwrap();
        let clone = store.clone();
        drop(store);
        let (living, dead) = observer.leases().list().unwrap();
        assert_eq!((living.len(), dead.len()), (1, 0));
        assert_eq!(living[0].held, [Output::Blob(digest)]);
        assert_eq!(living[0].holder.pid, std::process::id());

        drop(clone);
        assert_eq!(leases(), 0);
    }
}
