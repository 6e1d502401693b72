//! The content of a store: objects with their sizes, and what refers to them.
//!
//! Other processes write while an inventory is taken, so it reads referrers before referents:
//! leases, records, names, sparse files, blobs. A writer commits in the opposite order and may die
//! at any point. So while no collection runs (the caller holds the gate, lease.rs), every
//! reference in an inventory has its object in the inventory, and every object that existed at its
//! start is either referenced in it or garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use oci_spec::image::{Descriptor, ImageManifest};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::directory;
use crate::lease::LeaseHolder;
use crate::output::Output;
use crate::record::index::CACHED;
use crate::record::node::{NodeKey, NodeRecord};
use crate::record::root::RootRecord;
use crate::store::Store;

/// The maximum size of a manifest in bytes; the parts of a larger one are not listed.
const MAX_MANIFEST: u64 = 4 << 20;

/// Everything in a store.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// Blobs and sparse files. The chunk map of a sparse file is a blob of its own.
    pub objects: BTreeMap<Output, ObjectSize>,
    /// Nodes with a valid record, by key, whether or not their outputs exist.
    pub nodes: BTreeMap<NodeKey, KnownNode>,
    /// File names in `nodes/` without a valid record.
    pub broken_nodes: Vec<String>,
    /// Names of roots without a valid record.
    pub broken_roots: Vec<String>,
    /// Roots by name.
    pub roots: BTreeMap<String, RootRecord>,
    /// Whether `index.json` is not an image index; then `images` is empty.
    pub broken_index: bool,
    /// Images, in the order of `index.json`.
    pub images: Vec<KnownImage>,
    /// Leases of running processes.
    pub leases: Vec<(LeaseHolder, BTreeSet<Output>)>,
}

/// The size of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectSize {
    /// Its length in bytes.
    pub length: u64,
    /// Bytes allocated on disk: less than the length for a file with holes.
    pub allocated: u64,
}

/// A node's record and time of last use.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownNode {
    /// The record.
    pub record: NodeRecord,
    /// When it was last computed or looked up, to a minute.
    pub last_used: SystemTime,
}

/// An entry of `index.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownImage {
    /// Its name (`org.opencontainers.image.ref.name`), if any.
    pub name: Option<String>,
    /// The digest of its manifest or index; `None` when it is not a SHA-256.
    pub digest: Option<Digest>,
    /// Whether the pipeline tagged it.
    pub cached: bool,
    /// The manifest and everything it refers to, as far as that can be read.
    pub closure: BTreeSet<Output>,
}

impl Store {
    /// Lists everything in the store. The result may be inconsistent when a collection runs
    /// concurrently.
    ///
    /// # Errors
    /// When a directory cannot be listed; [`StoreError::Corrupt`] when `index.json` or a root is
    /// damaged: then it is unknown what must be kept.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        self.scan(true)
    }

    /// Like [`Store::inventory`], with damaged documents in the result.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn inventory_as_found(&self) -> Result<Inventory, StoreError> {
        self.scan(false)
    }

    /// With `strict`, a damaged document is an error.
    fn scan(&self, strict: bool) -> Result<Inventory, StoreError> {
        let mut inventory = Inventory::default();
        for lease in self.leases().list()?.0 {
            let held = lease.held.into_iter().collect();
            inventory.leases.push((lease.holder, held));
        }
        directory::list(&self.layout().dir("nodes"), |name, metadata| {
            let digest = name.strip_suffix(".json").map(Digest::from_hex);
            let known = match digest {
                Some(Ok(digest)) => self.read_record(&NodeKey::from(digest))?,
                _ => None,
            };
            match known {
                Some(record) => {
                    let node = KnownNode {
                        last_used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                        record,
                    };
                    inventory.nodes.insert(node.record.key(), node);
                }
                None => inventory.broken_nodes.push(name.to_owned()),
            }
            Ok(())
        })?;
        directory::list(&self.layout().dir("roots"), |name, _| {
            let Some(name) = name.strip_suffix(".json") else {
                return Ok(());
            };
            match self.get_root(name) {
                Ok(Some(root)) => {
                    inventory.roots.insert(name.to_owned(), root);
                }
                Ok(None) => {}
                Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) if !strict => {
                    inventory.broken_roots.push(name.to_owned());
                }
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        match self.index() {
            Ok(index) => {
                for entry in index.manifests() {
                    inventory.images.push(self.known_image(entry)?);
                }
            }
            Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) if !strict => {
                inventory.broken_index = true;
            }
            Err(error) => return Err(error),
        }
        let sparse: fn(Digest) -> Output = Output::Sparse;
        for (dir, output) in [("sparse", sparse), ("blobs/sha256", Output::Blob)] {
            directory::list(&self.layout().dir(dir), |name, metadata| {
                if let Ok(digest) = Digest::from_hex(name) {
                    let size = ObjectSize::of(metadata);
                    inventory.objects.insert(output(digest), size);
                }
                Ok(())
            })?;
        }
        Ok(inventory)
    }

    /// Returns a node's record and whether all outputs exist with the recorded size, without
    /// holding them and without updating the time of last use.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn peek_node(&self, key: &NodeKey) -> Result<Option<(KnownNode, bool)>, StoreError> {
        let Some(record) = self.read_record(key)? else {
            return Ok(None);
        };
        let whole = self.record_size(&record)? == Some(record.size);
        let path = self.node_path(key);
        let last_used = fs::metadata(&path)
            .and_then(|metadata| metadata.modified())
            .map_err(|error| StoreError::io("inspect", &path, error))?;
        Ok(Some((KnownNode { record, last_used }, whole)))
    }

    fn known_image(&self, entry: &Descriptor) -> Result<KnownImage, StoreError> {
        let annotations = entry.annotations().clone().unwrap_or_default();
        let digest = entry.digest().to_string().parse().ok();
        let mut closure = BTreeSet::new();
        if let Some(digest) = digest {
            self.closure(&digest, &mut closure)?;
        }
        Ok(KnownImage {
            name: annotations
                .get(oci_spec::image::ANNOTATION_REF_NAME)
                .cloned(),
            digest,
            cached: annotations.contains_key(CACHED),
            closure,
        })
    }

    /// Adds a manifest and its parts, or an index and the closures of its manifests.
    fn closure(&self, digest: &Digest, into: &mut BTreeSet<Output>) -> Result<(), StoreError> {
        #[derive(serde::Deserialize)]
        struct Index {
            manifests: Vec<Descriptor>,
        }
        if !into.insert(Output::Blob(*digest)) {
            return Ok(());
        }
        let Ok(Some(bytes)) = self.read_blob_unheld(digest, MAX_MANIFEST) else {
            return Ok(());
        };
        if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes) {
            let parts = manifest.layers().iter().chain([manifest.config()]);
            let digests = parts.filter_map(|part| part.digest().to_string().parse().ok());
            into.extend(digests.map(Output::Blob));
        } else if let Ok(index) = serde_json::from_slice::<Index>(&bytes) {
            for part in index.manifests {
                if let Ok(digest) = part.digest().to_string().parse() {
                    self.closure(&digest, into)?;
                }
            }
        }
        Ok(())
    }
}

impl ObjectSize {
    fn of(metadata: &Metadata) -> ObjectSize {
        ObjectSize {
            length: metadata.len(),
            allocated: metadata.blocks() * 512,
        }
    }
}

impl Inventory {
    /// The objects of a node's outputs; a sparse file includes its chunk map.
    pub fn objects_of(record: &NodeRecord) -> impl Iterator<Item = Output> + '_ {
        record.outputs.values().flat_map(Output::with_map)
    }

    /// Whether all objects of a node exist.
    pub fn is_whole(&self, record: &NodeRecord) -> bool {
        Inventory::objects_of(record).all(|object| self.objects.contains_key(&object))
    }

    /// The sum of the lengths of a node's existing outputs.
    pub(crate) fn length(&self, record: &NodeRecord) -> u64 {
        let sizes = (record.outputs.values()).filter_map(|output| self.objects.get(output));
        sizes.fold(0, |sum, size| sum.saturating_add(size.length))
    }

    /// The bytes on disk of `objects`, each counted once.
    pub fn allocated<'a>(&self, objects: impl IntoIterator<Item = &'a Output>) -> u64 {
        let objects: BTreeSet<_> = objects.into_iter().collect();
        let sizes = objects.iter().filter_map(|object| self.objects.get(object));
        sizes.map(|size| size.allocated).sum()
    }
}
