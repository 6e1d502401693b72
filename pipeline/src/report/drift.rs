//! Drift: what was recorded against what is there now.
//!
//! For a reference, the digest it named when it was resolved here against the one it names now;
//! for a file of this host that something was made from, the digest of its bytes then and now.
//! What cannot be asked is *unknown*, never the same.

use std::path::Path;

use microagent_cas::{Digest, StoreError};
use serde::Serialize;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::error::Error;
use crate::image::reference::Reference;
use crate::nodes::local_file;
use crate::nodes::resolve;
use crate::pipeline::Pipeline;
use crate::source::{self, SourceFailure};

/// What has become of everything that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// Whether everything is the same. False also when anything is unknown.
    pub ok: bool,
    /// References that were resolved here.
    pub images: Vec<Drift>,
    /// Files of this host that something was made from.
    pub files: Vec<Drift>,
}

/// What has become of one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The reference, or the file's path.
    pub name: String,
    /// What it was.
    pub recorded: Digest,
    /// When that was recorded: RFC 3339, UTC.
    pub recorded_at: String,
    /// What it is now, where that is known.
    pub current: Option<Digest>,
    /// The two compared.
    pub state: DriftState,
    /// Why it is unknown.
    pub why: Option<String>,
}

/// How now compares with then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DriftState {
    /// The same digest.
    Same,
    /// Another digest.
    Moved,
    /// It does not exist any more.
    Gone,
    /// Whether it is the same cannot be said.
    Unknown,
}

impl Pipeline {
    /// Compares what was recorded with what is there now: of these references, or of everything
    /// that was ever resolved or read here.
    ///
    /// # Errors
    /// When the store cannot be read. That something cannot be asked is part of the report.
    pub fn drift(&self, only: &[Reference]) -> Result<DriftReport, Error> {
        let mut images = Vec::new();
        let mut files = Vec::new();
        if only.is_empty() {
            for node in self.store().inventory()?.nodes.into_values() {
                let name = node
                    .record
                    .params
                    .get("reference")
                    .and_then(|name| name.as_str());
                if node.record.op == resolve::OP
                    && let Some(Ok(reference)) = name.map(str::parse)
                {
                    images.extend(self.image_drift(&reference)?);
                }
            }
            for known in self.store().subjects(local_file::OP)? {
                if let Some(input) = known.material.inputs.first() {
                    files.push(self.file_drift(&known.subject, input.digest, known.since));
                }
            }
        }
        for reference in only {
            images.extend(self.image_drift(reference)?);
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        let same = |drift: &Drift| drift.state == DriftState::Same;
        Ok(DriftReport {
            ok: images.iter().all(same) && files.iter().all(same),
            images,
            files,
        })
    }

    fn image_drift(&self, reference: &Reference) -> Result<Option<Drift>, Error> {
        let name = reference.to_string();
        let Some((node, _)) = self.store().peek_node(&resolve::spec(&name).key())? else {
            return Ok(None);
        };
        let Some(root) = node.record.outputs.get("root") else {
            return Ok(None);
        };
        let recorded = root.digest();
        let now = source::open(reference, self.registries())
            .and_then(|source| source.root(self.store()))
            .map(|document| Digest::of(&document.bytes));
        Ok(Some(compare(name, recorded, node.record.created_at, now)))
    }

    fn file_drift(&self, path: &str, recorded: Digest, recorded_at: String) -> Drift {
        let now = self.store().digest_known(Path::new(path));
        let now = now.map(|(digest, _)| digest).map_err(SourceFailure::from);
        compare(path.to_owned(), recorded, recorded_at, now)
    }
}

fn compare(
    name: String,
    recorded: Digest,
    recorded_at: String,
    now: Result<Digest, SourceFailure>,
) -> Drift {
    let (current, state, why) = match now {
        Ok(current) if current == recorded => (Some(current), DriftState::Same, None),
        Ok(current) => (Some(current), DriftState::Moved, None),
        Err(error) if is_gone(&error) => (None, DriftState::Gone, None),
        Err(error) => (None, DriftState::Unknown, Some(error.to_string())),
    };
    Drift {
        name,
        recorded,
        recorded_at,
        current,
        state,
        why,
    }
}

/// Whether the error means that the object does not exist.
fn is_gone(error: &SourceFailure) -> bool {
    match error {
        SourceFailure::Store(StoreError::Io(failed)) => {
            failed.source.kind() == std::io::ErrorKind::NotFound
        }
        SourceFailure::Store(_) => false,
        error => error.kind() == ErrorKind::NotFound,
    }
}
