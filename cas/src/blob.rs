//! Blobs: bytes in, hashed on the way; open files out.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::store::Store;
use crate::temporary::Temporary;
use crate::{Digest, Hasher, StoreError};

/// How much is read at once when a whole file is hashed, in bytes.
pub(crate) const CHUNK: usize = 256 << 10;

/// A blob, opened read-only.
#[derive(Debug)]
pub struct Blob {
    /// The open file, positioned at its start.
    pub file: File,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob that is being written from its first byte to its last. Dropped without
/// [`BlobWriter::commit`], it leaves nothing.
///
/// The [`io::Error`]s of its `write` carry a [`StoreError`]: see [`StoreError::from_stream`].
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    pub(crate) temporary: Temporary,
    pub(crate) hasher: Hasher,
    pub(crate) size: u64,
    /// How much an earlier writer left (partial.rs).
    pub(crate) there: u64,
}

impl BlobWriter {
    pub(crate) fn new(store: &Store, temporary: Temporary, there: u64) -> BlobWriter {
        BlobWriter {
            store: store.clone(),
            temporary,
            hasher: Hasher::new(),
            size: 0,
            there,
        }
    }

    /// The number of bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob durable under its digest and returns digest and size in bytes.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when the digest is not the expected one; nothing is kept then.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let actual = self.hasher.finish();
        if let Some(&expected) = expected
            && expected != actual
        {
            self.temporary.spoil();
            return Err(StoreError::Mismatch { expected, actual });
        }
        self.store.hold_blob(&actual)?;
        self.temporary
            .publish(&self.store.blob_path(&actual), self.size)?;
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

/// Digest and size in bytes of a whole file, wherever it is; its position does not matter. `path`
/// is what errors name.
///
/// # Errors
/// When the file cannot be read.
pub fn digest_file(file: &File, path: &Path) -> Result<(Digest, u64), StoreError> {
    crate::scratch::hash_file(file, path)
}

impl Store {
    /// Opens a blob; `None` when the store does not have it.
    ///
    /// # Errors
    /// [`StoreError::Permission`] and [`StoreError::Io`] when it is there but cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        open(&self.blob_path(digest))
    }

    /// The size of a blob in bytes; `None` when the store does not have it.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        size_of(&self.blob_path(digest))
    }

    /// Reads a small document whole, verified against its digest; `None` when it is absent. It
    /// is there to stay then ([`Store::hold`]).
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] above `limit` bytes, [`StoreError::Corrupt`] when the bytes do not
    /// have the digest.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.hold_blob(digest)?;
        self.read_blob_unheld(digest, limit)
    }

    /// As [`Store::read_blob`], for who only looks.
    pub(crate) fn read_blob_unheld(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob_path(digest);
        let Some(bytes) = read_small(&path, limit)? else {
            return Ok(None);
        };
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(Some(bytes)),
            actual => Err(corrupt(&path, &actual)),
        }
    }

    /// Hashes a blob of any size again; its size in bytes, or `None` when it is absent.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when its bytes do not have the digest.
    pub fn verify_blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.blob_path(digest);
        let Some(file) = open_if_present(&path)? else {
            return Ok(None);
        };
        let (actual, size) = crate::scratch::hash_file(&file, &path)?;
        if actual == *digest {
            Ok(Some(size))
        } else {
            Err(corrupt(&path, &actual))
        }
    }

    /// Stores `bytes`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.hold_blob(&digest)?;
        if self.blob_size(&digest)? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(|error| StoreError::io("write", &self.blob_path(&digest), error))?;
        writer.commit(Some(&digest)).map(|(digest, _)| digest)
    }

    /// A writer for a blob whose bytes come in order.
    ///
    /// # Errors
    /// When no file can be created in `tmp/`.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let temporary = self.temporary().create()?;
        Ok(BlobWriter::new(self, temporary, 0))
    }
}

fn corrupt(path: &Path, actual: &Digest) -> StoreError {
    StoreError::Corrupt {
        path: path.to_owned(),
        why: format!("its content has digest {actual}"),
    }
}

fn open_if_present(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", path, error)),
    }
}

/// Opens a file of the store; `None` when it is absent.
pub(crate) fn open(path: &Path) -> Result<Option<Blob>, StoreError> {
    let Some(file) = open_if_present(path)? else {
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

/// The length of a file in bytes; `None` when it is absent.
pub(crate) fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("inspect", path, error)),
    }
}

/// Reads a file of at most `limit` bytes; `None` when it is absent.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = open_if_present(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| StoreError::io("read", path, error))?;
    if bytes.len() as u64 > limit {
        let size = std::fs::metadata(path).map_or(bytes.len() as u64, |metadata| metadata.len());
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            size,
            limit,
        });
    }
    Ok(Some(bytes))
}
