//! Verification: every blob against its digest, every sparse file against its chunk map, every
//! record, root and image against what it promises.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::error::StoreError;
use crate::maintenance::inventory::{Inventory, ObjectSize};
use crate::output::Output;
use crate::parallel;
use crate::record::node::NodeKey;
use crate::store::Store;

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// Blobs and sparse files that were looked at.
    pub objects: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Node records that were looked at.
    pub nodes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// Whether it was repaired: put aside or removed, to be made anew when it is needed.
    pub repaired: bool,
    #[serde(skip)]
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Object(Output),
    Node(NodeKey),
    File,
    Image(Option<String>),
    Root,
}

impl Store {
    /// Reads everything and compares it with its name. `advance` is told bytes as they are read,
    /// from several threads.
    ///
    /// # Errors
    /// When something cannot be read at all; what can be read and is wrong is a [`Problem`].
    pub fn verify(&self, advance: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
        // Beside a collection, a record would be seen whose outputs have just gone.
        let gate = self.leases().gate(FlockOperation::LockShared)?;
        let inventory = self.inventory()?;
        drop(gate);
        let mut found = Verified {
            objects: inventory.objects.len() as u64,
            bytes: inventory.allocated(inventory.objects.keys()),
            nodes: inventory.nodes.len() as u64,
            problems: self.damaged_objects(&inventory, advance)?,
        };
        let damaged: BTreeSet<Output> = (found.problems.iter())
            .filter_map(|problem| match &problem.what {
                What::Object(object) => Some(*object),
                _ => None,
            })
            .collect();
        let is_bad =
            |object: &Output| damaged.contains(object) || !inventory.objects.contains_key(object);
        for name in &inventory.broken_nodes {
            let path = self.layout().dir("nodes").join(name);
            found.report(path, "it is no node record".into(), What::File);
        }
        for (key, node) in &inventory.nodes {
            if let Some(bad) = Inventory::objects_of(&node.record).find(is_bad) {
                let why = format!("its output {bad} is {}", state(&damaged, &bad));
                found.report(self.node_path(key), why, What::Node(*key));
            } else if inventory.length(&node.record) != node.record.size {
                let why = "its outputs have another size".into();
                found.report(self.node_path(key), why, What::Node(*key));
            }
        }
        for image in &inventory.images {
            if let Some(bad) = image.closure.iter().find(|part| is_bad(part)) {
                let name = image
                    .name
                    .clone()
                    .unwrap_or_else(|| "without a name".into());
                let why = format!("of image {name}, {bad} is {}", state(&damaged, bad));
                let path = self.layout().index();
                found.report(
                    path,
                    why,
                    What::Image(image.name.clone().filter(|_| image.cached)),
                );
            }
        }
        for (name, root) in &inventory.roots {
            if let Some(bad) = root.blobs.iter().find(|blob| is_bad(blob)) {
                let why = format!("{bad}, which it keeps, is {}", state(&damaged, bad));
                let path = self.layout().root_record(name);
                found.report(path, why, What::Root);
            }
        }
        found.problems.sort();
        Ok(found)
    }

    /// As [`Store::verify`], and puts damaged objects aside (`quarantine/`) and removes the
    /// records and cached images that promised them: whoever needs them next makes them anew.
    ///
    /// # Errors
    /// As [`Store::verify`], and when something cannot be moved or removed.
    pub fn repair(&self, advance: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
        let mut found = self.verify(advance)?;
        let _gate = self.leases().gate(FlockOperation::LockExclusive)?;
        let gone = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        let mut images = BTreeSet::new();
        for problem in &mut found.problems {
            problem.repaired = true;
            let path = &problem.path;
            match &problem.what {
                What::Object(object) => {
                    gone(std::fs::rename(path, self.layout().quarantine(object)))
                        .map_err(|error| StoreError::io("put aside", path, error))?;
                }
                What::Node(_) | What::File => gone(std::fs::remove_file(path))
                    .map_err(|error| StoreError::io("remove", path, error))?,
                What::Image(Some(name)) => {
                    images.insert(name.clone());
                }
                // Only who made these can say what they should be.
                What::Image(None) | What::Root => problem.repaired = false,
            }
        }
        self.untag(|name| images.contains(name))?;
        Ok(found)
    }

    fn damaged_objects(
        &self,
        inventory: &Inventory,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Problem>, StoreError> {
        let objects: Vec<_> = inventory.objects.iter().collect();
        let problems: Mutex<Vec<Problem>> = Mutex::default();
        let look = |(): &mut (), (object, size): &(&Output, &ObjectSize)| {
            let result = match object {
                Output::Blob(digest) => self.verify_blob(digest),
                Output::Sparse(map) => self.verify_sparse(map),
            };
            advance(size.allocated);
            // Collected meanwhile, or a sparse file whose map is missing.
            let orphan = matches!(object, Output::Sparse(map)
                if !inventory.objects.contains_key(&Output::Blob(*map)));
            let (path, why) = match result {
                Err(StoreError::Corrupt { path, why }) => (path, why),
                Err(StoreError::TooLarge { path, .. }) => (path, "it is too large".into()),
                Err(error) => return Err(error),
                Ok(None) if orphan => (self.output_path(object), "it has no chunk map".into()),
                Ok(_) => return Ok(()),
            };
            // A damaged map is a problem of the map.
            if path == self.output_path(object) {
                let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
                problems.push(Problem {
                    path,
                    why,
                    repaired: false,
                    what: What::Object(**object),
                });
            }
            Ok(())
        };
        let panicked = || {
            let panicked = std::io::Error::other("a thread that read it has panicked");
            StoreError::io("verify", self.root(), panicked)
        };
        parallel::each(&objects, || (), look, panicked)?;
        Ok(problems
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }
}

fn state(damaged: &BTreeSet<Output>, object: &Output) -> &'static str {
    match damaged.contains(object) {
        true => "damaged",
        false => "missing",
    }
}

impl Verified {
    fn report(&mut self, path: PathBuf, why: String, what: What) {
        self.problems.push(Problem {
            path,
            why,
            repaired: false,
            what,
        });
    }
}
