//! Opening a store, and the paths of its objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Access, FlockOperation};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::lock::LockFile;
use crate::file::temporary::{self, TemporaryDir};
use crate::format::Format;
use crate::layout::{DIRECTORIES, Layout};
use crate::lease::Leases;
use crate::output::Output;

/// The content of `oci-layout` (OCI image layout specification).
const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}\n";

/// The content of `index.json` without images.
const EMPTY_INDEX: &[u8] =
    b"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[]}\n";

/// The documents of an image layout, as they are in an empty store.
const DOCUMENTS: [(&str, &[u8]); 2] = [("oci-layout", OCI_LAYOUT), ("index.json", EMPTY_INDEX)];

/// A handle to a store directory. Cloning is cheap; clones, threads and processes may use a store
/// concurrently.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    temporary: TemporaryDir,
    leases: Leases,
    /// Objects moved to `quarantine/` since the last [`Store::take_damage`].
    damage: Mutex<Vec<PathBuf>>,
}

impl Store {
    /// Opens the store at `root` for reading and writing; creates it if it does not exist.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`] for a store that this version does not support;
    /// [`StoreError::ReadOnly`] or [`StoreError::Permission`] when it is not writable.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        Store::open_with(root, true)
    }

    /// `unnamed`: whether to use `O_TMPFILE`; false only in tests of the fallback.
    pub(crate) fn open_with(root: &Path, unnamed: bool) -> Result<Store, StoreError> {
        let root =
            std::path::absolute(root).map_err(|error| StoreError::io("resolve", root, error))?;
        let layout = Layout::new(root);
        let temporary = TemporaryDir {
            path: layout.dir("tmp"),
            gate: layout.tmp_gate(),
            // Without /proc, only a privileged process can name an unnamed file.
            unnamed: unnamed && Path::new("/proc/self/fd").exists(),
        };
        let leases = Leases::new(layout.dir("leases"), layout.gc_gate());
        let store = Store {
            inner: Arc::new(Inner {
                layout,
                temporary,
                leases,
                damage: Mutex::default(),
            }),
        };
        let format_path = store.layout().format();
        let format = match Format::read(&format_path)? {
            Some(format) => format,
            None => store.create(&format_path)?,
        };
        format.check(&format_path)?;
        // What an earlier version did not have, or somebody has deleted.
        let absent = |path: PathBuf| !path.exists();
        if DIRECTORIES
            .map(|name| store.layout().dir(name))
            .into_iter()
            .any(absent)
            || DOCUMENTS
                .iter()
                .any(|(name, _)| absent(store.root().join(name)))
        {
            store.create_directories()?;
            let gate = store.layout().store_gate();
            let _gate = LockFile::gate(gate, FlockOperation::LockExclusive)?;
            store.create_documents()?;
        }
        // Fail now rather than at the first blob after an hour of downloads.
        let tmp = &store.temporary().path;
        rustix::fs::access(tmp, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| StoreError::io("write to", tmp, error))?;
        Ok(store)
    }

    fn create_directories(&self) -> Result<(), StoreError> {
        for dir in DIRECTORIES.map(|name| self.layout().dir(name)) {
            fs::create_dir_all(&dir).map_err(|error| StoreError::io("create", &dir, error))?;
        }
        Ok(())
    }

    /// Creates the documents of the image layout that are missing. The caller holds a gate.
    pub(crate) fn create_documents(&self) -> Result<(), StoreError> {
        for (name, bytes) in DOCUMENTS {
            let path = self.root().join(name);
            if !path.exists() {
                temporary::replace(self.temporary(), &path, bytes)?;
            }
        }
        Ok(())
    }

    /// Creates the store. `store.json` is written last: its presence means the store is complete.
    fn create(&self, format_path: &Path) -> Result<Format, StoreError> {
        let root = self.root();
        fs::create_dir_all(root).map_err(|error| StoreError::io("create", root, error))?;
        self.create_directories()?;
        let _gate = LockFile::gate(self.layout().store_gate(), FlockOperation::LockExclusive)?;
        if let Some(format) = Format::read(format_path)? {
            return Ok(format);
        }
        self.create_documents()?;
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
        self.layout().root()
    }

    /// The path of a blob, whether or not it exists.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.layout().blob(digest)
    }

    /// The path of a sparse file, whether or not it exists. `map`: the digest of its chunk map.
    pub fn sparse_path(&self, map: &Digest) -> PathBuf {
        self.layout().sparse(map)
    }

    /// The path of an output, whether or not it exists.
    pub fn output_path(&self, output: &Output) -> PathBuf {
        self.layout().output(output)
    }

    /// Excludes objects, existing or not, from garbage collection until this process closes the
    /// store.
    ///
    /// # Errors
    /// When the lease cannot be written.
    pub fn hold(&self, outputs: &[Output]) -> Result<(), StoreError> {
        self.leases().hold(outputs)
    }

    /// The damaged objects that were moved to `quarantine/` since the last call, by any clone of
    /// this handle, so that the caller can tell the user why something is computed again.
    pub fn take_damage(&self) -> Vec<PathBuf> {
        let mut damage = (self.inner.damage.lock()).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut damage)
    }

    pub(crate) fn note_damage(&self, path: &Path) {
        let mut damage = (self.inner.damage.lock()).unwrap_or_else(PoisonError::into_inner);
        damage.push(path.to_owned());
    }

    pub(crate) fn hold_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.hold(&[Output::Blob(*digest)])
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    pub(crate) fn temporary(&self) -> &TemporaryDir {
        &self.inner.temporary
    }
}
