//! Subjects: which node stands for something now, and which did before.
//!
//! A node's key says nothing about what it is for. Somebody who asks why an image was built again
//! needs to know which node was its root file system last time: `subjects/<hex>.json`, named by
//! the digest of operation and subject (an image's reference, say), keeps the present node and
//! what the one before it was made from. It is a memory for people: nothing is decided by it, and
//! losing it costs an explanation.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::canonical::canonical_json;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::{directory, read, temporary};
use crate::record::node::{Input, NodeKey, NodeRecord};
use crate::store::Store;

/// The longest memory that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// What stands for a subject, and what did before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectRecord {
    /// The operation.
    pub op: String,
    /// What it was done for.
    pub subject: String,
    /// The present node.
    pub key: NodeKey,
    /// What it was made from.
    pub material: Material,
    /// What the node before it was made from.
    pub previous: Option<Material>,
    /// When the present one took its place: RFC 3339, UTC.
    pub since: String,
}

/// What a node was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Material {
    /// The operation's version.
    pub op_version: u32,
    /// The parameters.
    pub params: serde_json::Value,
    /// The inputs.
    pub inputs: Vec<Input>,
}

/// One difference between what two nodes were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum Moved {
    /// The operation itself has changed.
    OpVersion {
        /// Before.
        from: u32,
        /// Now.
        to: u32,
    },
    /// A parameter has another value.
    Param {
        /// Its name.
        name: String,
        /// Before.
        from: serde_json::Value,
        /// Now.
        to: serde_json::Value,
    },
    /// An input has another digest, came or went.
    Input {
        /// What it is to the operation.
        name: String,
        /// Its place among the inputs, counted from 1.
        place: usize,
        /// Before.
        from: Option<Digest>,
        /// Now.
        to: Option<Digest>,
    },
}

impl Material {
    /// What a record was made from.
    pub fn of(record: &NodeRecord) -> Material {
        Material {
            op_version: record.op_version,
            params: record.params.clone(),
            inputs: record.inputs.clone(),
        }
    }

    /// What has moved from `previous` to this.
    pub fn moved_from(&self, previous: &Material) -> Vec<Moved> {
        let mut moved = Vec::new();
        if self.op_version != previous.op_version {
            moved.push(Moved::OpVersion {
                from: previous.op_version,
                to: self.op_version,
            });
        }
        let members = |value: &serde_json::Value| value.as_object().cloned().unwrap_or_default();
        let (before, now) = (members(&previous.params), members(&self.params));
        let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
        for name in names {
            let value = |of: &serde_json::Map<_, _>| of.get(name).cloned().unwrap_or_default();
            let (from, to) = (value(&before), value(&now));
            if from != to {
                let name = name.clone();
                moved.push(Moved::Param { name, from, to });
            }
        }
        for place in 0..self.inputs.len().max(previous.inputs.len()) {
            let (from, to) = (previous.inputs.get(place), self.inputs.get(place));
            if from != to
                && let Some(input) = to.or(from)
            {
                moved.push(Moved::Input {
                    name: input.name.clone(),
                    place: place + 1,
                    from: from.map(|input| input.digest),
                    to: to.map(|input| input.digest),
                });
            }
        }
        moved
    }
}

impl Store {
    /// Remembers that `record` stands for `subject` now; whether that is new. Nothing is written
    /// when it is not.
    ///
    /// # Errors
    /// When the memory cannot be written.
    pub fn set_subject(&self, subject: &str, record: &NodeRecord) -> Result<bool, StoreError> {
        let known = self.subject(&record.op, subject)?;
        let key = record.key();
        if known.as_ref().is_some_and(|known| known.key == key) {
            return Ok(false);
        }
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        let memory = SubjectRecord {
            op: record.op.clone(),
            subject: subject.to_owned(),
            key,
            material: Material::of(record),
            previous: known.map(|known| known.material),
            since: now.to_string(),
        };
        let path = self.subject_path(&record.op, subject);
        let bytes = serde_json::to_vec(&memory)
            .map_err(|error| StoreError::io("encode", &path, std::io::Error::from(error)))?;
        temporary::replace(self.temporary(), &path, &bytes)?;
        Ok(true)
    }

    /// What stands for `subject`; `None` when nothing is remembered, or nothing that is understood.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn subject(&self, op: &str, subject: &str) -> Result<Option<SubjectRecord>, StoreError> {
        let path = self.subject_path(op, subject);
        let bytes = read::read_small(&path, LIMIT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Every subject of an operation that is remembered.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn subjects(&self, op: &str) -> Result<Vec<SubjectRecord>, StoreError> {
        let mut found = Vec::new();
        let dir = self.layout().dir("subjects");
        directory::list(&dir, |name, _| {
            let path = dir.join(name);
            let bytes = read::read_small(&path, LIMIT)?.unwrap_or_default();
            if let Ok(memory) = serde_json::from_slice::<SubjectRecord>(&bytes)
                && memory.op == op
            {
                found.push(memory);
            }
            Ok(())
        })?;
        found.sort_by(|a, b| a.subject.cmp(&b.subject));
        Ok(found)
    }

    /// The memories of subjects whose node is gone.
    pub(crate) fn stale_subjects(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut stale = Vec::new();
        let dir = self.layout().dir("subjects");
        directory::list(&dir, |name, _| {
            let path = dir.join(name);
            let bytes = read::read_small(&path, LIMIT)?.unwrap_or_default();
            let known = serde_json::from_slice::<SubjectRecord>(&bytes);
            if !known.is_ok_and(|known| self.node_path(&known.key).exists()) {
                stale.push(path);
            }
            Ok(())
        })?;
        Ok(stale)
    }

    fn subject_path(&self, op: &str, subject: &str) -> PathBuf {
        let name = canonical_json(&serde_json::json!({ "op": op, "subject": subject }));
        self.layout().subject(&Digest::of(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::node::KeyMaterial;

    fn record(store: &Store, version: u32, size: u64, layers: &[&str]) -> NodeRecord {
        let inputs: Vec<Input> = (layers.iter())
            .map(|layer| Input {
                name: "layer".into(),
                digest: Digest::of(layer.as_bytes()),
            })
            .collect();
        let material = KeyMaterial {
            op: "rootfs",
            op_version: version,
            params: &serde_json::json!({ "sizeMiB": size }),
            inputs: &inputs,
            platform: None,
        };
        NodeRecord::new(store, &material, [].into(), 0).unwrap()
    }

    #[test]
    fn what_moved_between_two_nodes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let first = record(&store, 1, 512, &["a", "b"]);
        store.set_subject("busybox", &first).unwrap();
        let known = store.subject("rootfs", "busybox").unwrap().unwrap();
        assert_eq!((known.key, known.previous), (first.key(), None));
        assert_eq!(store.subject("rootfs", "other").unwrap(), None);

        let second = record(&store, 2, 1024, &["a", "c", "d"]);
        store.set_subject("busybox", &second).unwrap();
        store.set_subject("busybox", &second).unwrap();
        let known = store.subject("rootfs", "busybox").unwrap().unwrap();
        let digest = |name: &str| Some(Digest::of(name.as_bytes()));
        let input = |place, from, to| Moved::Input {
            name: "layer".into(),
            place,
            from,
            to,
        };
        assert_eq!(
            known.material.moved_from(&known.previous.unwrap()),
            [
                Moved::OpVersion { from: 1, to: 2 },
                Moved::Param {
                    name: "sizeMiB".into(),
                    from: 512.into(),
                    to: 1024.into()
                },
                input(2, digest("b"), digest("c")),
                input(3, None, digest("d")),
            ]
        );
        assert_eq!(store.subjects("rootfs").unwrap().len(), 1);
        assert_eq!(store.stale_subjects().unwrap().len(), 1, "no such node");
        store.record_node(&second).unwrap();
        assert_eq!(store.stale_subjects().unwrap().len(), 0);
    }
}
