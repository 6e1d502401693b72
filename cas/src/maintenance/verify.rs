//! Verification and repair: blobs are checked against their digests, sparse files against their
//! chunk maps; records, roots and images against the objects they refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::directory;
use crate::maintenance::inventory::{Inventory, ObjectSize};
use crate::output::Output;
use crate::parallel;
use crate::record::node::NodeKey;
use crate::store::Store;

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyReport {
    /// The number of blobs and sparse files checked.
    pub objects: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// The number of node records checked.
    pub nodes: u64,
    /// The problems found.
    pub problems: Vec<Problem>,
}

/// A problem of a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// Whether it was repaired: quarantined or removed, to be rebuilt when needed.
    pub repaired: bool,
    #[serde(skip)]
    what: What,
}

impl Problem {
    /// Whether [`Store::repair`] can repair it: all but images without a name, which other tools
    /// wrote and only they can restore.
    pub fn is_repairable(&self) -> bool {
        self.what != What::Image(None)
    }

    /// The root whose record it is: what its creator kept must be made again.
    pub fn root(&self) -> Option<&str> {
        match &self.what {
            What::Root(name) => Some(name),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Object(Output),
    Node(NodeKey),
    File,
    Image(Option<String>),
    Index,
    Root(String),
}

impl Store {
    /// Verifies the whole store. Calls `advance` with the number of bytes read since the last
    /// call, from several threads.
    ///
    /// # Errors
    /// When something cannot be read; invalid content is not an error but a [`Problem`].
    pub fn verify(&self, advance: &(dyn Fn(u64) + Sync)) -> Result<VerifyReport, StoreError> {
        // Excludes a collection, which could remove the outputs of a record already listed.
        let gate = self.leases().gate(FlockOperation::LockShared)?;
        let inventory = self.inventory_as_found()?;
        drop(gate);
        let mut report = VerifyReport {
            objects: inventory.objects.len() as u64,
            bytes: inventory.allocated(inventory.objects.keys()),
            nodes: inventory.nodes.len() as u64,
            problems: self.damaged_objects(&inventory, advance)?,
        };
        let damaged: BTreeSet<Output> = (report.problems.iter())
            .filter_map(|problem| match &problem.what {
                What::Object(object) => Some(*object),
                _ => None,
            })
            .collect();
        let is_bad =
            |object: &Output| damaged.contains(object) || !inventory.objects.contains_key(object);
        for name in &inventory.broken_nodes {
            let path = self.layout().dir("nodes").join(name);
            report.add(path, "not a node record".into(), What::File);
        }
        if inventory.broken_index {
            report.add(
                self.layout().index(),
                "not an image index".into(),
                What::Index,
            );
        }
        for name in &inventory.broken_roots {
            let path = self.layout().root_record(name);
            report.add(path, "not a root record".into(), What::File);
        }
        let built_from = built_from(&inventory, &damaged);
        for (key, node) in &inventory.nodes {
            if let Some(bad) = Inventory::objects_of(&node.record).find(is_bad) {
                let why = format!("output {bad} is {}", state(&damaged, &bad));
                report.add(self.node_path(key), why, What::Node(*key));
            } else if inventory.length(&node.record) != node.record.size {
                let why = "the size of its outputs differs from the record".into();
                report.add(self.node_path(key), why, What::Node(*key));
            } else if let Some(bad) = built_from.get(key) {
                let why = format!("it was built from {bad}, which is damaged");
                report.add(self.node_path(key), why, What::Node(*key));
            }
        }
        for image in &inventory.images {
            if let Some(bad) = image.closure.iter().find(|part| is_bad(part)) {
                let name = image.name.as_deref().unwrap_or("without a name");
                let why = format!("image {name}: {bad} is {}", state(&damaged, bad));
                let path = self.layout().index();
                report.add(
                    path,
                    why,
                    What::Image(image.name.clone().filter(|_| image.cached)),
                );
            }
        }
        for (name, root) in &inventory.roots {
            if let Some(bad) = root.blobs.iter().find(|blob| is_bad(blob)) {
                let why = format!("kept object {bad} is {}", state(&damaged, bad));
                let path = self.layout().root_record(name);
                report.add(path, why, What::Root(name.clone()));
            }
        }
        report.problems.sort();
        Ok(report)
    }

    /// Verifies the store, moves damaged objects to `quarantine/` and removes the records and
    /// cached images that refer to them or were built from them, so that they are rebuilt when
    /// needed. A damaged `index.json` becomes an empty one.
    ///
    /// # Errors
    /// See [`Store::verify`]; also when something cannot be moved or removed.
    pub fn repair(&self, advance: &(dyn Fn(u64) + Sync)) -> Result<VerifyReport, StoreError> {
        let mut report = self.verify(advance)?;
        let _gate = self.leases().gate(FlockOperation::LockExclusive)?;
        let absent_is_ok = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        let mut images = BTreeSet::new();
        for problem in &mut report.problems {
            problem.repaired = true;
            let path = &problem.path;
            match &problem.what {
                // Another process may have replaced it since.
                What::Object(object) if self.is_right(object)? => {}
                What::Object(object) => {
                    absent_is_ok(std::fs::rename(path, self.layout().quarantine(object)))
                        .map_err(|error| StoreError::io("quarantine", path, error))?;
                }
                What::Node(_) | What::File => directory::remove(path)?,
                What::Index => {
                    let aside = self.layout().dir("quarantine").join("index.json");
                    absent_is_ok(std::fs::rename(path, aside))
                        .map_err(|error| StoreError::io("quarantine", path, error))?;
                    self.create_documents()?;
                }
                // Its objects are gone. Kept aside, it still tells what they were.
                What::Root(_) => {
                    let name = path.file_name().unwrap_or_default();
                    let aside = self.layout().dir("quarantine").join(name);
                    absent_is_ok(std::fs::rename(path, aside))
                        .map_err(|error| StoreError::io("quarantine", path, error))?;
                }
                What::Image(Some(name)) => {
                    images.insert(name.clone());
                }
                // Only the tool that wrote it can restore it.
                What::Image(None) => problem.repaired = false,
            }
        }
        self.untag(|name| images.contains(name))?;
        Ok(report)
    }

    /// Whether an object is present and matches its digest.
    fn is_right(&self, object: &Output) -> Result<bool, StoreError> {
        let verified = match object {
            Output::Blob(digest) => self.verify_blob(digest),
            Output::Sparse(map) => self.verify_sparse(map),
        };
        match verified {
            Ok(size) => Ok(size.is_some()),
            Err(StoreError::Corrupt { .. } | StoreError::TooLarge { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn damaged_objects(
        &self,
        inventory: &Inventory,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Problem>, StoreError> {
        let objects: Vec<_> = inventory.objects.iter().collect();
        let problems: Mutex<Vec<Problem>> = Mutex::default();
        let check = |(): &mut (), (object, size): &(&Output, &ObjectSize)| {
            let result = match object {
                Output::Blob(digest) => self.verify_blob(digest),
                Output::Sparse(map) => self.verify_sparse(map),
            };
            advance(size.allocated);
            // `None` below: collected meanwhile, or a sparse file without its map.
            let orphan = matches!(object, Output::Sparse(map)
                if !inventory.objects.contains_key(&Output::Blob(*map)));
            let (path, why) = match result {
                Err(StoreError::Corrupt { path, why }) => (path, why),
                Err(StoreError::TooLarge { path, .. }) => (path, "too large".into()),
                Err(error) => return Err(error),
                Ok(None) if orphan => (self.output_path(object), "its chunk map is missing".into()),
                Ok(_) => return Ok(()),
            };
            // Without its map, nothing can tell whether a sparse file is right.
            let own = self.output_path(object);
            let why = match path == own {
                true => why,
                false => "its chunk map is damaged".into(),
            };
            {
                let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
                problems.push(Problem {
                    path: own,
                    why,
                    repaired: false,
                    what: What::Object(**object),
                });
            }
            Ok(())
        };
        let panicked = || {
            let panicked = std::io::Error::other("a verification thread panicked");
            StoreError::io("verify", self.root(), panicked)
        };
        parallel::each(&objects, || (), check, panicked)?;
        Ok(problems
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

/// The nodes that were built from a damaged object, directly or through other nodes, and that
/// object. A node with a damaged output counts as damaged with all its outputs: what used one
/// output may have used the others, which its key need not tell (a root file system is keyed by
/// the layers' tars and also built from their indexes).
fn built_from(inventory: &Inventory, damaged: &BTreeSet<Output>) -> BTreeMap<NodeKey, Output> {
    let mut tainted: BTreeMap<Digest, Output> = (damaged.iter())
        .map(|object| (object.digest(), *object))
        .collect();
    let mut found = BTreeMap::new();
    loop {
        let before = found.len();
        for (key, node) in &inventory.nodes {
            let record = &node.record;
            let inputs = record.inputs.iter().map(|input| input.digest);
            let outputs = Inventory::objects_of(record).filter(|object| damaged.contains(object));
            let mut suspects = inputs.chain(outputs.map(|object| object.digest()));
            let cause = suspects.find_map(|digest| tainted.get(&digest).copied());
            if let Some(cause) = cause
                && found.insert(*key, cause).is_none()
            {
                for object in Inventory::objects_of(record) {
                    tainted.entry(object.digest()).or_insert(cause);
                }
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

fn state(damaged: &BTreeSet<Output>, object: &Output) -> &'static str {
    match damaged.contains(object) {
        true => "damaged",
        false => "missing",
    }
}

impl VerifyReport {
    fn add(&mut self, path: PathBuf, why: String, what: What) {
        self.problems.push(Problem {
            path,
            why,
            repaired: false,
            what,
        });
    }
}
