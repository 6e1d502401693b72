//! Node records: the outputs of a computation, and the inputs they depend on.
//!
//! A node is named by its key, the sha256 of the canonical JSON (canonical.rs) of
//! `{"inputs":[{"digest":…,"name":…}…],"op":…,"opVersion":…,"params":…,"platform":…}`, with
//! `platform` null where the output does not depend on it, and the inputs in the op's order.
//! `nodes/<hex>.json` holds the record. The key can be derived from the record, so a record under
//! the wrong name is detected and ignored. Its last member, `checksum`, is the digest of the
//! JSON without it, so that a damaged record, whose outputs could be other objects, is ignored too.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use serde::{Deserialize, Serialize};

use crate::canonical::canonical_json;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::lock::NodeLock;
use crate::file::{read, temporary};
use crate::output::Output;
use crate::store::Store;

/// The version of the record format.
pub const NODE_FORMAT: u32 = 3;

/// The format before checksums. Its records are still valid.
const UNCHECKED_FORMAT: u32 = 2;

/// The maximum size of a record in bytes.
const LIMIT: u64 = 4 << 20;

/// The resolution of a node's time of last use.
const USED_RESOLUTION: Duration = Duration::from_secs(60);

/// The name of a node: the digest of everything its output depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey(Digest);

/// One input of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// The input's role in the op, such as `layer`.
    pub name: String,
    /// The digest of its content.
    pub digest: Digest,
}

/// Everything a node's output depends on.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyMaterial<'a> {
    /// The operation.
    pub op: &'a str,
    /// Incremented whenever the bytes that the op produces could change.
    pub op_version: u32,
    /// The op's parameters: null, integers, strings, booleans, arrays and objects.
    pub params: &'a serde_json::Value,
    /// The inputs, in the op's order.
    pub inputs: &'a [Input],
    /// The platform, such as `linux/amd64`, if the output depends on it.
    pub platform: Option<&'a str>,
}

/// The record of a computed node.
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
    /// The platform, if the output depends on it.
    pub platform: Option<String>,
    /// The outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// The wall time of the computation in milliseconds.
    pub wall_millis: u64,
    /// The sum of the outputs' sizes in bytes; an output listed twice counts twice.
    pub size: u64,
    /// When the node was computed: RFC 3339, UTC.
    pub created_at: String,
}

impl NodeKey {
    /// Derives the key of a node.
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

    /// The key as a digest.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl From<Digest> for NodeKey {
    fn from(digest: Digest) -> NodeKey {
        NodeKey(digest)
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
    /// Makes the record of a node computed now, and holds its outputs ([`Store::hold`]).
    ///
    /// # Errors
    /// [`StoreError::Io`] when an output is not in the store.
    pub fn new(
        store: &Store,
        material: &KeyMaterial<'_>,
        outputs: BTreeMap<String, Output>,
        wall_millis: u64,
    ) -> Result<NodeRecord, StoreError> {
        let held: Vec<Output> = outputs.values().flat_map(Output::with_map).collect();
        store.hold(&held)?;
        let mut size = 0;
        for output in outputs.values() {
            size += store.output_size(output)?.ok_or_else(|| {
                let path = store.output_path(output);
                let missing = io::Error::from(io::ErrorKind::NotFound);
                StoreError::io("find the output", &path, missing)
            })?;
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
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

    /// The key of the node.
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
    /// Looks up a node. Returns its record when all outputs are intact ([`Store::is_intact`]) and
    /// have the recorded size; they are then held ([`Store::hold`]), and the time of last use is
    /// updated.
    /// Otherwise, and for an invalid record, returns `None`: the node must be computed.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn node(&self, key: &NodeKey) -> Result<Option<NodeRecord>, StoreError> {
        let Some(record) = self.read_record(key)? else {
            return Ok(None);
        };
        let held: Vec<Output> = record.outputs.values().flat_map(Output::with_map).collect();
        self.hold(&held)?;
        match sum(&record, |output| self.intact_size(output))? {
            Some(size) if size == record.size => {
                self.mark_used(key);
                Ok(Some(record))
            }
            Some(_) => Ok(ignored(key, "the size of an output differs")),
            None => Ok(ignored(key, "an output is missing or damaged")),
        }
    }

    /// Reads a valid record, whether or not its outputs exist.
    pub(crate) fn read_record(&self, key: &NodeKey) -> Result<Option<NodeRecord>, StoreError> {
        let bytes = match read::read_small(&self.node_path(key), LIMIT) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(StoreError::TooLarge { .. }) => return Ok(ignored(key, "too large")),
            Err(error) => return Err(error),
        };
        let record: NodeRecord = match serde_json::from_slice(&bytes) {
            Ok(record) => record,
            Err(error) => return Ok(ignored(key, &error.to_string())),
        };
        let valid = match record.format {
            NODE_FORMAT => checked(bytes),
            UNCHECKED_FORMAT => !has_checksum(&bytes),
            _ => false,
        };
        if !valid || record.key() != *key {
            return Ok(ignored(key, "unknown format, damaged, or different key"));
        }
        Ok(Some(record))
    }

    /// The sum of the sizes of a record's outputs; `None` when one is missing.
    pub(crate) fn record_size(&self, record: &NodeRecord) -> Result<Option<u64>, StoreError> {
        sum(record, |output| self.output_size(output))
    }

    /// Updates the time of last use, which is the record's modification time; at most once per
    /// [`USED_RESOLUTION`]. An error is ignored: it only affects the order of eviction.
    fn mark_used(&self, key: &NodeKey) {
        let Ok(file) = File::open(self.node_path(key)) else {
            return;
        };
        let last = file.metadata().and_then(|metadata| metadata.modified());
        let idle = last.ok().and_then(|last| last.elapsed().ok());
        if idle.is_none_or(|idle| idle >= USED_RESOLUTION) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Waits for the exclusive right to compute a node.
    ///
    /// # Errors
    /// When the lock file cannot be created.
    pub fn lock_node(&self, key: &NodeKey) -> Result<NodeLock, StoreError> {
        NodeLock::acquire(self.layout().node_lock(&key.0))
    }

    /// Writes a record under its key, atomically.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn record_node(&self, record: &NodeRecord) -> Result<(), StoreError> {
        let path = self.node_path(&record.key());
        let bytes = serde_json::to_vec(record)
            .map_err(|error| StoreError::io("encode", &path, io::Error::from(error)))?;
        temporary::replace(self.temporary(), &path, &with_checksum(bytes))
    }

    pub(crate) fn node_path(&self, key: &NodeKey) -> PathBuf {
        self.layout().node(&key.0)
    }
}

/// Adds the checksum to an encoded record.
fn with_checksum(mut record: Vec<u8>) -> Vec<u8> {
    let member = checksum(&record);
    record.pop(); // The closing brace.
    record.extend(member.into_bytes());
    record
}

/// Whether the content of a record's file matches its checksum.
fn checked(mut bytes: Vec<u8>) -> bool {
    let Some(at) = bytes.len().checked_sub(checksum(b"").len()) else {
        return false;
    };
    let found = bytes.split_off(at);
    bytes.push(b'}');
    found == checksum(&bytes).as_bytes()
}

/// Whether the content ends in a checksum, right or wrong.
fn has_checksum(bytes: &[u8]) -> bool {
    let (end, digest) = (checksum(b""), Digest::of(b"").to_string().len());
    let name = &end[..end.len() - digest - 2];
    let at = bytes.len().saturating_sub(end.len());
    bytes[at..].starts_with(name.as_bytes())
}

/// The end of the file of an encoded record.
fn checksum(record: &[u8]) -> String {
    format!(",\"checksum\":\"{}\"}}", Digest::of(record))
}

/// The sum of the sizes of a record's outputs; `None` when `size` gives none for one of them.
fn sum(
    record: &NodeRecord,
    size: impl Fn(&Output) -> Result<Option<u64>, StoreError>,
) -> Result<Option<u64>, StoreError> {
    let mut sum = 0_u64;
    for output in record.outputs.values() {
        match size(output)? {
            Some(size) => sum = sum.saturating_add(size),
            None => return Ok(None),
        }
    }
    Ok(Some(sum))
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
    fn node_keys_are_stable() {
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
