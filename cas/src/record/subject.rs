//! Subjects: the current and the previous node of a subject, such as an image.
//!
//! A node's key does not identify the image it was built for. To explain why an image was rebuilt,
//! `subjects/<hex>.json`, named by the digest of operation and subject (such as an image
//! reference), records the current node and what the previous one was computed from. The record
//! is informational: no decision depends on it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::canonical::canonical_json;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::{directory, read, temporary};
use crate::record::node::{Input, NodeKey, NodeRecord};
use crate::store::Store;

/// The maximum size of a record in bytes.
const LIMIT: u64 = 4 << 20;

/// The current node of a subject, and what the previous one was computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubjectRecord {
    /// The operation.
    pub op: String,
    /// The subject, such as an image reference.
    pub subject: String,
    /// The current node.
    pub key: NodeKey,
    /// What the current node was computed from.
    pub material: Material,
    /// What the previous node was computed from.
    pub previous: Option<Material>,
    /// When the current node replaced the previous one: RFC 3339, UTC.
    pub since: String,
}

/// What a node was computed from.
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

/// A difference between the materials of two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub enum MaterialChange {
    /// The operation's version changed.
    OpVersion {
        /// The previous version.
        from: u32,
        /// The current version.
        to: u32,
    },
    /// A parameter changed.
    Param {
        /// Its name.
        name: String,
        /// The previous value; null when the parameter was added.
        from: serde_json::Value,
        /// The current value; null when the parameter was removed.
        to: serde_json::Value,
    },
    /// An input was changed, added or removed.
    Input {
        /// Its role in the operation.
        name: String,
        /// Its position among the inputs, counted from 1.
        place: usize,
        /// The previous digest; `None` when the input was added.
        from: Option<Digest>,
        /// The current digest; `None` when the input was removed.
        to: Option<Digest>,
    },
}

impl Material {
    /// The material of a recorded node.
    pub fn of(record: &NodeRecord) -> Material {
        Material {
            op_version: record.op_version,
            params: record.params.clone(),
            inputs: record.inputs.clone(),
        }
    }

    /// The changes from `previous` to this material.
    pub fn changes_from(&self, previous: &Material) -> Vec<MaterialChange> {
        let mut changes = Vec::new();
        if self.op_version != previous.op_version {
            changes.push(MaterialChange::OpVersion {
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
                changes.push(MaterialChange::Param { name, from, to });
            }
        }
        for place in 0..self.inputs.len().max(previous.inputs.len()) {
            let (from, to) = (previous.inputs.get(place), self.inputs.get(place));
            if from != to
                && let Some(input) = to.or(from)
            {
                changes.push(MaterialChange::Input {
                    name: input.name.clone(),
                    place: place + 1,
                    from: from.map(|input| input.digest),
                    to: to.map(|input| input.digest),
                });
            }
        }
        changes
    }
}

impl Store {
    /// Makes `record` the current node of `subject`. Returns false, and writes nothing, when it
    /// already is.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_subject(&self, subject: &str, record: &NodeRecord) -> Result<bool, StoreError> {
        let known = self.subject(&record.op, subject)?;
        let key = record.key();
        if known.as_ref().is_some_and(|known| known.key == key) {
            return Ok(false);
        }
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        let updated = SubjectRecord {
            op: record.op.clone(),
            subject: subject.to_owned(),
            key,
            material: Material::of(record),
            previous: known.map(|known| known.material),
            since: now.to_string(),
        };
        let path = self.subject_path(&record.op, subject);
        let bytes = serde_json::to_vec(&updated)
            .map_err(|error| StoreError::io("encode", &path, std::io::Error::from(error)))?;
        temporary::replace(self.temporary(), &path, &bytes)?;
        Ok(true)
    }

    /// The record of `subject`; `None` when it is absent or invalid.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn subject(&self, op: &str, subject: &str) -> Result<Option<SubjectRecord>, StoreError> {
        let path = self.subject_path(op, subject);
        let bytes = read::read_small(&path, LIMIT)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// All recorded subjects of an operation.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn subjects(&self, op: &str) -> Result<Vec<SubjectRecord>, StoreError> {
        let mut found = Vec::new();
        let dir = self.layout().dir("subjects");
        directory::list(&dir, |name, _| {
            let path = dir.join(name);
            let bytes = read::read_small(&path, LIMIT)?.unwrap_or_default();
            if let Ok(record) = serde_json::from_slice::<SubjectRecord>(&bytes)
                && record.op == op
            {
                found.push(record);
            }
            Ok(())
        })?;
        found.sort_by(|a, b| a.subject.cmp(&b.subject));
        Ok(found)
    }

    /// The records of subjects whose node is missing.
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
    fn lists_the_changes_between_two_nodes() {
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
        let input = |place, from, to| MaterialChange::Input {
            name: "layer".into(),
            place,
            from,
            to,
        };
        assert_eq!(
            known.material.changes_from(&known.previous.unwrap()),
            [
                MaterialChange::OpVersion { from: 1, to: 2 },
                MaterialChange::Param {
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
