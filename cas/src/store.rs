//! Opening a store, and where things are in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Access, FlockOperation};

use crate::format::Format;
use crate::lease::Lease;
use crate::lock::{self, LockFile};
use crate::temporary::{self, TemporaryDir};
use crate::{Digest, StoreError};

/// The directories of a store.
const DIRECTORIES: [&str; 11] = [
    "blobs/sha256",
    "sparse",
    "nodes",
    "subjects",
    "known",
    "roots",
    "leases",
    "locks",
    "partial",
    "quarantine",
    "tmp",
];

/// `oci-layout`, as the OCI image layout specification has it.
const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// `index.json` of a layout without images.
const EMPTY_INDEX: &[u8] =
    b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";

/// A handle to a store directory. Cloning is cheap; every clone, thread and process may work at
/// the same time.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temporary: TemporaryDir,
    lease: Mutex<Option<Lease>>,
}

/// What a [`Store::sweep`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Files and directories in `tmp/`.
    pub temporaries: u64,
    /// Lock files without a holder.
    pub locks: u64,
}

impl Store {
    /// Opens the store at `root` for reading and writing, and creates it if there is none.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`] for a store this version must not touch;
    /// [`StoreError::ReadOnly`] or [`StoreError::Permission`] when it cannot be written to.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Store::open_with(root, true)
    }

    /// `nameless`: whether `O_TMPFILE` may be used; tests switch it off.
    pub(crate) fn open_with(root: &Path, nameless: bool) -> Result<Store, StoreError> {
        let root =
            std::path::absolute(root).map_err(|error| StoreError::io("find", root, error))?;
        let temporary = TemporaryDir {
            path: root.join("tmp"),
            gate: root.join("locks/tmp"),
            nameless,
        };
        let store = Store {
            inner: Arc::new(Inner {
                root,
                temporary,
                lease: Mutex::new(None),
            }),
        };
        let format_path = store.root().join("store.json");
        let format = match Format::read(&format_path)? {
            Some(format) => format,
            None => store.create(&format_path)?,
        };
        format.check(&format_path)?;
        // A store of an earlier version has fewer.
        if !store.root().join("quarantine").exists() {
            store.create_directories()?;
        }
        // Said now, by name, and not at the first blob an hour of downloads later.
        let tmp = &store.temporary().path;
        rustix::fs::access(tmp, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| StoreError::io("write to", tmp, error))?;
        Ok(store)
    }

    fn create_directories(&self) -> Result<(), StoreError> {
        for dir in DIRECTORIES.map(|dir| self.root().join(dir)) {
            fs::create_dir_all(&dir).map_err(|error| StoreError::io("create", &dir, error))?;
        }
        Ok(())
    }

    /// `store.json` is written last: a store that has it has everything.
    fn create(&self, format_path: &Path) -> Result<Format, StoreError> {
        let root = self.root();
        fs::create_dir_all(root).map_err(|error| StoreError::io("create", root, error))?;
        self.create_directories()?;
        let _gate = LockFile::gate(root.join("locks/store"), FlockOperation::LockExclusive)?;
        if let Some(format) = Format::read(format_path)? {
            return Ok(format);
        }
        for (name, bytes) in [("oci-layout", OCI_LAYOUT), ("index.json", EMPTY_INDEX)] {
            let path = root.join(name);
            if !path.exists() {
                temporary::replace(self.temporary(), &path, bytes)?;
            }
        }
        let format = Format::current();
        let mut bytes = serde_json::to_vec(&format).map_err(|error| StoreError::Corrupt {
            path: format_path.to_owned(),
            why: error.to_string(),
        })?;
        bytes.push(b'\n');
        temporary::replace(self.temporary(), format_path, &bytes)?;
        Ok(format)
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    /// This process's lease (lease.rs), if it has one already.
    pub(crate) fn lease(&self) -> MutexGuard<'_, Option<Lease>> {
        (self.inner.lease.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn temporary(&self) -> &TemporaryDir {
        &self.inner.temporary
    }

    /// Removes what processes that died in the middle of something left in `tmp/` and `locks/`.
    /// What a living process uses is locked by it and stays.
    ///
    /// # Errors
    /// When the directories cannot be read or an entry cannot be removed.
    pub fn sweep(&self) -> Result<Swept, StoreError> {
        let mut swept = Swept {
            temporaries: self.temporary().sweep()?,
            locks: 0,
        };
        let locks = self.root().join("locks");
        let failed = |error| StoreError::io("list", &locks, error);
        for entry in fs::read_dir(&locks).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().as_encoded_bytes().starts_with(b"node-")
                && lock::remove_if_free(&entry.path())?
            {
                swept.locks += 1;
            }
        }
        self.sweep_leases()?;
        Ok(swept)
    }
}
