//! What a node was made for, and what holds it, in words.

use std::collections::{BTreeMap, BTreeSet};

use microagent_cas::{Digest, Inventory, NodeKey, NodeRecord, Output, Store, StoreError};

/// Looks up what nodes were made for.
pub struct Purposes {
    /// Node to subject.
    subjects: BTreeMap<NodeKey, String>,
    /// A part of an image to the image's names.
    parts: BTreeMap<Digest, BTreeSet<String>>,
    /// An object to what holds it.
    holders: BTreeMap<Output, BTreeSet<String>>,
}

impl Purposes {
    /// Of everything in this inventory.
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
            let name = image.name.clone().unwrap_or_else(|| "an image".to_owned());
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
            // This process has only just looked at it.
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

    /// What a node was made for; empty when nothing says so.
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

    /// What keeps a node's outputs from being collected.
    pub fn holders(&self, record: &NodeRecord) -> BTreeSet<String> {
        let outputs = record.outputs.values();
        let holders = outputs.filter_map(|output| self.holders.get(output));
        holders.flatten().cloned().collect()
    }
}
