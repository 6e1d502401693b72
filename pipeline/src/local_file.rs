//! Files of this host that something was made from: what they held is recorded, so that a drift
//! report ([`crate::DriftReport`]) can tell when they hold something else.

use std::path::Path;

use microagent_cas::{Digest, StoreError};

use crate::error::Error;
use crate::node::{NodeSpec, Outputs};
use crate::pipeline::Pipeline;

/// The operation: an observation of a file.
pub(crate) const OP: &str = "file";

impl Pipeline {
    /// The digest of a file's bytes, remembered for as long as the file is provably the same, and
    /// recorded as what its path holds now.
    ///
    /// # Errors
    /// When it cannot be read, or the store not be written.
    pub fn local_file(&self, path: &Path) -> Result<Digest, Error> {
        let absolute =
            std::path::absolute(path).map_err(|error| StoreError::io("find", path, error))?;
        let (digest, _) = self.store().digest_known(&absolute)?;
        // A path that is not UTF-8 cannot be recorded as text; it is used all the same.
        if let Some(subject) = absolute.to_str() {
            let known = self.store().subject(OP, subject)?;
            let same = |known: &microagent_cas::SubjectRecord| {
                known.material.inputs.first().map(|input| input.digest) == Some(digest)
            };
            if !known.as_ref().is_some_and(same) {
                let spec = NodeSpec {
                    op: OP,
                    op_version: 1,
                    params: serde_json::json!({ "path": subject }),
                    inputs: vec![("content".to_owned(), digest)],
                    platform: None,
                };
                let node = self.observe_quietly(spec, Outputs::new())?;
                self.store().set_subject(subject, &node)?;
            }
        }
        Ok(digest)
    }
}
