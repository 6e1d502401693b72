//! Files of this host that something was made from: what they held is recorded, so that a drift
//! report ([`crate::DriftReport`]) can tell when they hold something else.

use std::path::Path;

use microagent_cas::{Digest, StoreError};

use crate::engine::node::{NodeSpec, Outputs};
use crate::error::Error;
use crate::pipeline::Pipeline;

/// The operation: an observation of a file.
pub(crate) const OP: &str = "file";

impl Pipeline {
    /// Records what a file held when something was made from it; nothing is written when that is
    /// recorded already. To be called once it has been of use: what was refused is not recorded.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) fn record_local_file(&self, path: &Path, digest: &Digest) -> Result<(), Error> {
        let absolute =
            std::path::absolute(path).map_err(|error| StoreError::io("find", path, error))?;
        // A path that is not UTF-8 cannot be recorded as text; it is used all the same.
        let Some(subject) = absolute.to_str() else {
            return Ok(());
        };
        let known = self.store().subject(OP, subject)?;
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
        let node = self.observe_quietly(spec, Outputs::new())?;
        self.store().set_subject(subject, &node)?;
        Ok(())
    }
}
