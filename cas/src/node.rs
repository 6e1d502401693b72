//! Node records: what was computed from what.
//!
//! A node is named by its key, the sha256 of the canonical JSON (canonical.rs) of
//! `{"inputs":[{"digest":…,"name":…}…],"op":…,"opVersion":…,"params":…,"platform":…}`, with
//! `platform` null where the output does not depend on one and the inputs in the order the op
//! gives them. `nodes/<hex>.json` holds the record. Since the key is a function of the record, a
//! record that does not belong to its file name is recognised and ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::canonical::canonical_json;
use crate::lock::NodeLock;
use crate::store::Store;
use crate::{Digest, StoreError, temporary};

/// The version of the record's own format.
pub const NODE_FORMAT: u32 = 1;

/// The longest record that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// The name of a node: the digest of everything its output depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey(Digest);

/// One input of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// What the input is to the op, such as `layer`.
    pub name: String,
    /// Its content.
    pub digest: Digest,
}

/// Everything a node's output depends on.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyMaterial<'a> {
    /// The operation.
    pub op: &'a str,
    /// Rises whenever the bytes the op produces could change.
    pub op_version: u32,
    /// The op's parameters; integers, strings, booleans, arrays and objects.
    pub params: &'a serde_json::Value,
    /// The inputs, in the op's own order.
    pub inputs: &'a [Input],
    /// The platform, such as `linux/amd64`, where the output depends on it.
    pub platform: Option<&'a str>,
}

/// What is remembered of a computed node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// [`NODE_FORMAT`].
    pub format: u32,
    /// The operation.
    pub op: String,
    /// The operation's version.
    pub op_version: u32,
    /// The operation's parameters.
    pub params: serde_json::Value,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// The platform, where the output depends on it.
    pub platform: Option<String>,
    /// The outputs by name; each is a blob of the store.
    pub outputs: BTreeMap<String, Digest>,
    /// How long computing took, in milliseconds of wall time.
    pub wall_millis: u64,
    /// The sum of the outputs' sizes in bytes, each output counted.
    pub size: u64,
    /// When it was computed: RFC 3339, UTC.
    pub created_at: String,
}

impl NodeKey {
    /// The key of a node with these inputs.
    pub fn derive(material: &KeyMaterial<'_>) -> NodeKey {
        let inputs: Vec<_> = material
            .inputs
            .iter()
            .map(
                |input| serde_json::json!({"name": input.name, "digest": input.digest.to_string()}),
            )
            .collect();
        let value = serde_json::json!({
            "op": material.op,
            "opVersion": material.op_version,
            "params": material.params,
            "inputs": inputs,
            "platform": material.platform,
        });
        NodeKey(Digest::of(&canonical_json(&value)))
    }

    /// The digest that is the key.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl NodeRecord {
    /// A record of `outputs`, created now, with their sizes summed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when an output is not in the store.
    pub fn new(
        store: &Store,
        material: &KeyMaterial<'_>,
        outputs: BTreeMap<String, Digest>,
        wall_millis: u64,
    ) -> Result<NodeRecord, StoreError> {
        let mut size = 0;
        for digest in outputs.values() {
            size += store.blob_size(digest)?.ok_or_else(|| {
                let path = store.blob_path(digest);
                let missing = io::Error::from(io::ErrorKind::NotFound);
                StoreError::io("find the output", &path, missing)
            })?;
        }
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        Ok(NodeRecord {
            format: NODE_FORMAT,
            op: material.op.to_owned(),
            op_version: material.op_version,
            params: material.params.clone(),
            inputs: material.inputs.to_vec(),
            platform: material.platform.map(str::to_owned),
            outputs,
            wall_millis,
            size,
            created_at: now.to_string(),
        })
    }

    /// The key this record belongs under.
    pub fn key(&self) -> NodeKey {
        NodeKey::derive(&KeyMaterial {
            op: &self.op,
            op_version: self.op_version,
            params: &self.params,
            inputs: &self.inputs,
            platform: self.platform.as_deref(),
        })
    }
}

impl Store {
    /// The record of a node whose outputs are all present and of the recorded size; otherwise
    /// `None`, and the node must be computed. A record that cannot be understood counts as none.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn node(&self, key: &NodeKey) -> Result<Option<NodeRecord>, StoreError> {
        let path = self.node_path(key);
        let bytes = match crate::blob::read_small(&path, LIMIT) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(StoreError::TooLarge { .. }) => return Ok(ignored(key, "too large")),
            Err(error) => return Err(error),
        };
        let record: NodeRecord = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(ignored(key, &error.to_string())),
        };
        if record.format != NODE_FORMAT || record.key() != *key {
            return Ok(ignored(key, "it is the record of something else"));
        }
        let mut size = 0_u64;
        for digest in record.outputs.values() {
            match self.blob_size(digest)? {
                Some(output) => size = size.saturating_add(output),
                None => return Ok(ignored(key, "an output is gone")),
            }
        }
        if size != record.size {
            return Ok(ignored(key, "an output has another size"));
        }
        Ok(Some(record))
    }

    /// Waits until nobody else computes this node, and keeps others out until the lock is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be created.
    pub fn lock_node(&self, key: &NodeKey) -> Result<NodeLock, StoreError> {
        NodeLock::acquire(self.root().join(format!("locks/node-{}", key.0.hex())))
    }

    /// Writes a record under its key, in one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record_node(&self, record: &NodeRecord) -> Result<(), StoreError> {
        let path = self.node_path(&record.key());
        let bytes = serde_json::to_vec(record)
            .map_err(|error| StoreError::io("encode", &path, io::Error::from(error)))?;
        temporary::replace(self.temporary(), &path, &bytes)
    }

    fn node_path(&self, key: &NodeKey) -> PathBuf {
        self.root().join(format!("nodes/{}.json", key.0.hex()))
    }
}

fn ignored(key: &NodeKey, why: &str) -> Option<NodeRecord> {
    tracing::debug!(%key, why, "node record ignored");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest was taken with coreutils: `printf %s '<the JSON in the comment>' | sha256sum`.
    #[test]
    fn the_key_of_a_node_never_changes() {
        // {"inputs":[{"digest":"sha256:ba78…15ad","name":"layer"}],"op":"unpack","opVersion":3,"params":{"a":1,"b":["x",true,null]},"platform":"linux/amd64"}
        let inputs = [Input {
            name: "layer".into(),
            digest: Digest::of(b"abc"),
        }];
        let params = serde_json::json!({"b": ["x", true, null], "a": 1});
        let mut material = KeyMaterial {
            op: "unpack",
            op_version: 3,
            params: &params,
            inputs: &inputs,
            platform: Some("linux/amd64"),
        };
        assert_eq!(
            NodeKey::derive(&material).to_string(),
            "sha256:3e7410640f80574af1d1ed63e3a64b8c08e64167a276373f2702ccf4b3e50e14"
        );
        // {"inputs":[],"op":"unpack","opVersion":3,"params":null,"platform":null}
        material.inputs = &[];
        material.params = &serde_json::Value::Null;
        material.platform = None;
        assert_eq!(
            NodeKey::derive(&material).to_string(),
            "sha256:d5d155931265254eee17f877092aaad9024af031f687aa91ae918f1c52fb86c5"
        );
    }
}
