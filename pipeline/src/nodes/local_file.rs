//! The `file` node: the digest of a local file that a node was computed from, recorded so that a
//! drift report ([`crate::DriftReport`]) can detect that the file has changed.

use std::path::Path;

use microagent_cas::{Digest, StoreError};

use crate::engine::Engine;
use crate::engine::node::{NodeSpec, Outputs};

/// The operation: an observation of a file.
pub(crate) const OP: &str = "file";

/// Records the digest of a file that a node was computed from. Call it after that node has
/// succeeded: a rejected file is not recorded. An unchanged record is not written again.
///
/// # Errors
/// When the store cannot be read or written.
pub(crate) fn record(engine: &Engine, path: &Path, digest: &Digest) -> Result<(), StoreError> {
    let absolute =
        std::path::absolute(path).map_err(|error| StoreError::io("find", path, error))?;
    // A path that is not UTF-8 cannot be recorded as text; the file is used all the same.
    let Some(subject) = absolute.to_str() else {
        return Ok(());
    };
    let known = engine.store().subject(OP, subject)?;
    let recorded = known.and_then(|known| known.material.inputs.first().map(|i| i.digest));
    if recorded == Some(*digest) {
        return Ok(());
    }
    let spec = NodeSpec {
        op: OP,
        op_version: 1,
        params: serde_json::json!({ "path": subject }),
        inputs: vec![("content".to_owned(), *digest)],
        platform: None,
    };
    let node = engine.observe_quietly(spec, Outputs::new())?;
    engine.store().set_subject(subject, &node)?;
    Ok(())
}
