//! The paths of a store.

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::STORE_JSON;
use crate::output::Output;

/// The directories of a store.
pub(crate) const DIRECTORIES: [&str; 11] = [
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

/// The prefix of the names of node locks in `locks/`.
pub(crate) const NODE_LOCK_PREFIX: &str = "node-";

/// Maps the parts of the store at `root` to paths.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A directory by its name in [`DIRECTORIES`].
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn format(&self) -> PathBuf {
        self.root.join(STORE_JSON)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// `map`: the digest of the file's chunk map.
    pub(crate) fn sparse(&self, map: &Digest) -> PathBuf {
        self.root.join("sparse").join(map.hex())
    }

    pub(crate) fn output(&self, output: &Output) -> PathBuf {
        match output {
            Output::Blob(digest) => self.blob(digest),
            Output::Sparse(map) => self.sparse(map),
        }
    }

    /// The incomplete download of the blob with this digest.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.hex())
    }

    pub(crate) fn node(&self, key: &Digest) -> PathBuf {
        self.root.join(format!("nodes/{}.json", key.hex()))
    }

    pub(crate) fn root_record(&self, name: &str) -> PathBuf {
        self.root.join(format!("roots/{name}.json"))
    }

    /// `name`: the digest of operation and subject.
    pub(crate) fn subject(&self, name: &Digest) -> PathBuf {
        self.root.join(format!("subjects/{}.json", name.hex()))
    }

    /// `name`: the digest of the file's absolute path.
    pub(crate) fn known_file(&self, name: &Digest) -> PathBuf {
        self.root.join(format!("known/{}.json", name.hex()))
    }

    /// Where repair moves a damaged object.
    pub(crate) fn quarantine(&self, object: &Output) -> PathBuf {
        self.root.join("quarantine").join(flat_name(object))
    }

    /// Where collection moves an object before it frees the space.
    pub(crate) fn trash(&self, object: &Output) -> PathBuf {
        self.root.join(format!("tmp/gc-{}", flat_name(object)))
    }

    /// Serialises the creation of the store.
    pub(crate) fn store_gate(&self) -> PathBuf {
        self.root.join("locks/store")
    }

    /// Taken shared to hold an object, exclusively to collect.
    pub(crate) fn gc_gate(&self) -> PathBuf {
        self.root.join("locks/gc")
    }

    /// Serialises changes to `index.json`.
    pub(crate) fn index_gate(&self) -> PathBuf {
        self.root.join("locks/index")
    }

    /// Taken shared to create a named file in `tmp/`, exclusively to sweep.
    pub(crate) fn tmp_gate(&self) -> PathBuf {
        self.root.join("locks/tmp")
    }

    pub(crate) fn node_lock(&self, key: &Digest) -> PathBuf {
        let name = format!("locks/{NODE_LOCK_PREFIX}{}", key.hex());
        self.root.join(name)
    }
}

/// A file name that is unique among blobs and sparse files.
fn flat_name(object: &Output) -> String {
    let kind = match object {
        Output::Blob(_) => "blob",
        Output::Sparse(_) => "sparse",
    };
    format!("{kind}-{}", object.digest().hex())
}
