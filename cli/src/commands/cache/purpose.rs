//! The purpose of a node, and what holds it, as text.

use std::collections::{BTreeMap, BTreeSet};

use microagent_cas::{Digest, Inventory, NodeKey, NodeRecord, Output, Store, StoreError};

/// Purposes and holders of nodes.
pub struct Purposes {
    /// Node to the subject it was built for.
    subjects: BTreeMap<NodeKey, String>,
    /// Object of an image to the image's names.
    parts: BTreeMap<Digest, BTreeSet<String>>,
    /// Object to its holders.
    holders: BTreeMap<Output, BTreeSet<String>>,
}

impl Purposes {
    /// Collects purposes and holders of everything in `inventory`.
    pub fn of(store: &Store, inventory: &Inventory) -> Result<Purposes, StoreError> {
        let mut purposes = Purposes {
            subjects: BTreeMap::new(),
            parts: BTreeMap::new(),
            holders: BTreeMap::new(),
        };
        for op in ["rootfs", "bundle"] {
            for subject in store.subjects(op)? {
                purposes.subjects.insert(subject.key, subject.subject);
            }
        }
        for image in &inventory.images {
            let name = image.name.clone().unwrap_or_else(|| "unnamed".to_owned());
            for part in &image.closure {
                let names = purposes.parts.entry(part.digest()).or_default();
                names.insert(name.clone());
                if !image.cached {
                    purposes.hold(*part, format!("image {name}"));
                }
            }
        }
        for (name, root) in &inventory.roots {
            for object in &root.blobs {
                purposes.hold(*object, name.clone());
            }
        }
        for (holder, objects) in &inventory.leases {
            // This process holds a lease on everything it lists.
            if holder.pid != std::process::id() {
                for object in objects {
                    purposes.hold(*object, format!("process {}", holder.pid));
                }
            }
        }
        Ok(purposes)
    }

    fn hold(&mut self, object: Output, by: String) {
        self.holders.entry(object).or_default().insert(by);
    }

    /// The purpose of a node; empty if unknown.
    pub fn purpose(&self, key: &NodeKey, record: &NodeRecord) -> String {
        let param = |name: &str| {
            let value = record.params.get(name)?.as_str()?;
            Some(value.to_owned())
        };
        let of_image = || {
            let layer = record.inputs.iter().find(|input| input.name == "layer")?;
            let names = self.parts.get(&layer.digest)?;
            Some(names.iter().cloned().collect::<Vec<_>>().join(", "))
        };
        (self.subjects.get(key).cloned())
            .or_else(|| param("reference"))
            .or_else(|| param("path"))
            .or_else(of_image)
            .unwrap_or_default()
    }

    /// What protects a node's outputs from collection.
    pub fn holders(&self, record: &NodeRecord) -> BTreeSet<String> {
        let outputs = record.outputs.values();
        let holders = outputs.filter_map(|output| self.holders.get(output));
        holders.flatten().cloned().collect()
    }
}
