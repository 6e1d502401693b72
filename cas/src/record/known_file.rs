//! Cached digests of files outside the store, valid while the file is unchanged.
//!
//! `known/<hex>.json`, named by the digest of the file's absolute path. A cached digest is valid
//! while device, inode, size, modification and change time are unchanged. It is cached only when
//! the last change was more than [`SETTLED`] before hashing: a second change within the clock's
//! resolution would be invisible (git calls such an entry "racy").

use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::hash::digest_file;
use crate::file::{directory, read, temporary};
use crate::store::Store;

/// How long a file must have been unchanged before it is hashed.
const SETTLED: Duration = Duration::from_secs(2);

/// The maximum size of a record in bytes.
const LIMIT: u64 = 64 << 10;

/// The identity of a file when it was hashed, and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownFile {
    /// Where a path is not UTF-8, lossily converted.
    path: String,
    identity: Identity,
    digest: Digest,
}

/// Metadata that changes with the file's content, unless the clock is set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self, at: SystemTime) -> bool {
        let now = at.duration_since(SystemTime::UNIX_EPOCH);
        let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
        let settled = SETTLED.as_secs() as i64;
        now - self.changed.0.max(self.modified.0) > settled
    }
}

impl Store {
    /// Digest and size in bytes of a file outside the store: cached, or hashed now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn digest_known(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let file = File::open(path).map_err(|error| StoreError::io("open", path, error))?;
        let identity = identity(&file, path)?;
        if let Some(digest) = self.known(path, &identity)? {
            return Ok((digest, identity.size));
        }
        let started = SystemTime::now();
        let (digest, size) = digest_file(&file, path)?;
        if identity.is_settled(started) && identity == self::identity(&file, path)? {
            self.remember(path, identity, digest)?;
        }
        Ok((digest, size))
    }

    /// Whether the file at `path` is unchanged since [`Store::remember_known`] recorded it with
    /// this digest. False for a file that cannot be inspected.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn is_known(&self, path: &Path, digest: &Digest) -> Result<bool, StoreError> {
        // Not opened, which would block on a FIFO.
        let Ok(metadata) = fs::metadata(path) else {
            return Ok(false);
        };
        let identity = Identity::of(&metadata);
        Ok(self.known(path, &identity)?.as_ref() == Some(digest))
    }

    /// Records that the content of the file at `path` is named by `digest`: of its bytes or of its
    /// chunk map. To be called by the writer of the file, right after writing it.
    ///
    /// # Errors
    /// When the file cannot be inspected or the record cannot be written.
    pub fn remember_known(&self, path: &Path, digest: &Digest) -> Result<(), StoreError> {
        let file = File::open(path).map_err(|error| StoreError::io("open", path, error))?;
        let identity = identity(&file, path)?;
        self.remember(path, identity, *digest)
    }

    fn known(&self, path: &Path, identity: &Identity) -> Result<Option<Digest>, StoreError> {
        let bytes = read::read_small(&self.known_path(path)?, LIMIT)?;
        let known: Option<KnownFile> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Ok(known
            .filter(|known| known.identity == *identity)
            .map(|known| known.digest))
    }

    fn remember(&self, path: &Path, identity: Identity, digest: Digest) -> Result<(), StoreError> {
        let target = self.known_path(path)?;
        let known = KnownFile {
            path: path.to_string_lossy().into_owned(),
            identity,
            digest,
        };
        let bytes = serde_json::to_vec(&known)
            .map_err(|error| StoreError::io("encode", &target, std::io::Error::from(error)))?;
        temporary::replace(self.temporary(), &target, &bytes)
    }

    fn known_path(&self, path: &Path) -> Result<PathBuf, StoreError> {
        let absolute =
            std::path::absolute(path).map_err(|error| StoreError::io("resolve", path, error))?;
        let name = Digest::of(absolute.as_os_str().as_bytes());
        Ok(self.layout().known_file(&name))
    }

    /// The records of files that are missing or have changed.
    pub(crate) fn stale_known_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut stale = Vec::new();
        let dir = self.layout().dir("known");
        directory::list(&dir, |name, _| {
            let record = dir.join(name);
            let bytes = read::read_small(&record, LIMIT)?.unwrap_or_default();
            let fresh = serde_json::from_slice::<KnownFile>(&bytes).is_ok_and(|known| {
                fs::metadata(&known.path)
                    .is_ok_and(|metadata| Identity::of(&metadata) == known.identity)
            });
            if !fresh {
                stale.push(record);
            }
            Ok(())
        })?;
        Ok(stale)
    }
}

fn identity(file: &File, path: &Path) -> Result<Identity, StoreError> {
    let metadata = file
        .metadata()
        .map_err(|error| StoreError::io("inspect", path, error))?;
    Ok(Identity::of(&metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_modified(path: &Path, ago: u64) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(ago))
            .unwrap();
    }

    #[test]
    fn a_recently_changed_file_is_always_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        set_modified(&path, 1000);
        // Its change time is now.
        assert_eq!(store.digest_known(&path).unwrap(), (Digest::of(b"one"), 3));
        assert_eq!(fs::read_dir(store.root().join("known")).unwrap().count(), 0);
    }

    #[test]
    fn a_cached_digest_is_valid_until_the_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        // Not the real digest, to show that the cached one is returned.
        let cached = Digest::of(b"cached");
        store.remember_known(&path, &cached).unwrap();
        assert_eq!(store.digest_known(&path).unwrap(), (cached, 3));
        assert!(store.is_known(&path, &cached).unwrap());
        assert_eq!(store.stale_known_files().unwrap().len(), 0);

        let other = dir.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!store.is_known(&path, &cached).unwrap());
        assert_eq!(store.digest_known(&path).unwrap(), (Digest::of(b"two"), 3));
        assert_eq!(store.stale_known_files().unwrap().len(), 1);
        fs::remove_file(&path).unwrap();
        assert!(!store.is_known(&path, &cached).unwrap());
    }

    #[test]
    fn a_file_is_settled_after_the_clock_resolution() {
        let mut identity = Identity {
            device: 1,
            inode: 1,
            size: 1,
            modified: (100, 0),
            changed: (200, 0),
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(identity.is_settled(at(203)));
        assert!(!identity.is_settled(at(202)));
        identity.modified.0 = 300; // In the future.
        assert!(!identity.is_settled(at(203)));
    }
}
