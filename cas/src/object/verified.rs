//! Reading an object and verifying it in the same pass, and setting damaged objects aside.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::hash::{BUFFER_SIZE, digest_file};
use crate::file::{lock, read, seal};
use crate::object::blob;
use crate::object::chunk_map::ChunkMap;
use crate::output::Output;
use crate::parallel;
use crate::store::Store;

/// Reads a blob from its start and hashes what it reads. Nothing that was read may be used before
/// [`VerifiedReader::finish`] returns.
#[derive(Debug)]
pub struct VerifiedReader {
    store: Store,
    digest: Digest,
    file: File,
    path: PathBuf,
    hasher: Hasher,
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl VerifiedReader {
    /// The length of the blob in bytes.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Reads and hashes the rest, and verifies the whole blob. A damaged one is moved to
    /// `quarantine/`, so that it is absent from now on.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the digest does not match.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", &self.path, error)),
            }
        }
        let actual = self.hasher.finish();
        if actual == self.digest {
            return Ok(());
        }
        let damage = blob::corrupt(&self.path, &actual);
        let output = Output::Blob(self.digest);
        self.store.quarantine(&output, &self.file, &self.path)?;
        Err(damage)
    }
}

impl Store {
    /// Opens a blob to be read and verified in one pass; `None` when it is absent.
    ///
    /// # Errors
    /// When it exists but cannot be opened.
    pub fn verified_reader(&self, digest: &Digest) -> Result<Option<VerifiedReader>, StoreError> {
        let path = self.blob_path(digest);
        Ok(read::open_if_present(&path)?.map(|file| VerifiedReader {
            store: self.clone(),
            digest: *digest,
            file,
            path,
            hasher: Hasher::new(),
        }))
    }

    /// Verifies blobs on several threads. A damaged one is moved to `quarantine/`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a damaged blob; [`StoreError::Io`] for an absent one.
    pub fn verify_blobs(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let verify = |(): &mut (), digest: &Digest| match self.verified_reader(digest)? {
            Some(reader) => reader.finish(),
            None => {
                let absent = io::Error::from(io::ErrorKind::NotFound);
                Err(StoreError::io("open", &self.blob_path(digest), absent))
            }
        };
        let panicked = || {
            let panicked = io::Error::other("a verification thread panicked");
            StoreError::io("verify", self.root(), panicked)
        };
        parallel::each(digests, || (), verify, panicked)
    }

    /// Whether an object is in the store with the content that its name promises. An object that
    /// was written to since it was published (file/seal.rs) is hashed, and moved to `quarantine/`
    /// if it is damaged. A sparse file counts as absent without an intact chunk map.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_intact(&self, output: &Output) -> Result<bool, StoreError> {
        Ok(self.intact_size(output)?.is_some())
    }

    /// The digest of the content that an object has; `None` if it is absent. An object that was not
    /// written to since it was published (file/seal.rs) has that of its name and is not read. Unlike
    /// [`Store::is_intact`], nothing is moved or marked: this only tells.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn actual_digest(&self, output: &Output) -> Result<Option<Digest>, StoreError> {
        let path = self.output_path(output);
        let Some(file) = read::open_if_present(&path)? else {
            return Ok(None);
        };
        let metadata = file.metadata();
        let metadata = metadata.map_err(|error| StoreError::io("inspect", &path, error))?;
        if seal::is_sealed(&metadata) {
            return Ok(Some(output.digest()));
        }
        let actual = match output {
            Output::Blob(_) => digest_file(&file, &path)?.0,
            Output::Sparse(_) => Digest::of(&ChunkMap::of(&file, &path)?.to_bytes()),
        };
        Ok(Some(actual))
    }

    /// Like [`Store::is_intact`], but always reads and hashes the object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn verify_object(&self, output: &Output) -> Result<bool, StoreError> {
        Ok(self.right_size(output, false)?.is_some())
    }

    /// The length in bytes of an intact object ([`Store::is_intact`]).
    pub(crate) fn intact_size(&self, output: &Output) -> Result<Option<u64>, StoreError> {
        self.right_size(output, true)
    }

    fn right_size(&self, output: &Output, trust_seal: bool) -> Result<Option<u64>, StoreError> {
        if let Output::Sparse(map) = output
            && (self.right_size(&Output::Blob(*map), trust_seal)?).is_none()
        {
            return Ok(None);
        }
        let path = self.output_path(output);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("inspect", &path, error)),
        };
        if trust_seal && seal::is_sealed(&metadata) {
            return Ok(Some(metadata.len()));
        }
        let Some(file) = read::open_if_present(&path)? else {
            return Ok(None);
        };
        let verified = match output {
            Output::Blob(digest) => self.verify_blob(digest),
            Output::Sparse(map) => self.verify_sparse(map),
        };
        match verified {
            Ok(size) => {
                // Not the owner's: it is hashed again at the next use.
                let _ = seal::seal(&file);
                Ok(size)
            }
            Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) => {
                self.quarantine(output, &file, &path)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves a damaged object out of the way, so that it is absent and will be computed or fetched
    /// again. `file` is the open object at `path`: one that another process has put in its place
    /// meanwhile is kept.
    pub(crate) fn quarantine(
        &self,
        output: &Output,
        file: &File,
        path: &Path,
    ) -> Result<(), StoreError> {
        if !lock::is_current(file, path)? {
            return Ok(());
        }
        match fs::rename(path, self.layout().quarantine(output)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("quarantine", path, error))
            }
            _ => {
                tracing::warn!(object = %output, "damaged, moved to quarantine");
                self.note_damage(path);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_digest_of_a_changed_object_is_that_of_its_content_and_nothing_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let scratch = store.scratch().unwrap();
        scratch.file().set_len(1 << 30).unwrap();
        scratch.file().write_all_at(b"data", 1 << 29).unwrap();
        let (sparse, _) = scratch.commit_sparse().unwrap();
        let blob = Output::Blob(store.put_bytes(b"data").unwrap());
        for output in [sparse, blob] {
            let path = store.output_path(&output);
            assert_eq!(store.actual_digest(&output).unwrap(), Some(output.digest()));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            file.write_all_at(b"D", file.metadata().unwrap().len() / 2)
                .unwrap();
            let changed = store.actual_digest(&output).unwrap();
            assert_ne!(changed, Some(output.digest()));
            // A second time: it was not marked as right.
            assert_eq!(store.actual_digest(&output).unwrap(), changed);
            fs::remove_file(&path).unwrap();
            assert_eq!(store.actual_digest(&output).unwrap(), None);
        }
    }
}
