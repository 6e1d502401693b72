//! Drift: recorded digests compared with the current ones.
//!
//! For a reference, the digest that it named when it was last resolved; for a local file that a
//! node was computed from, the digest of its content. A current digest that cannot be determined
//! is *unknown*, never *same*.

use std::path::Path;

use microagent_cas::{Digest, Store, StoreError};
use serde::Serialize;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::image::reference::Reference;
use crate::nodes::local_file;
use crate::nodes::resolve;
use crate::source::{self, Registries, SourceFailure};

/// The comparison of all recorded digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// Whether everything is the same; false also if anything is unknown.
    pub ok: bool,
    /// Resolved references.
    pub images: Vec<Drift>,
    /// Local files that a node was computed from.
    pub files: Vec<Drift>,
}

/// The comparison of one recorded digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// The reference, or the file's path.
    pub name: String,
    /// The recorded digest.
    pub recorded: Digest,
    /// When it was recorded: RFC 3339, UTC.
    pub recorded_at: String,
    /// The current digest, if it is known.
    pub current: Option<Digest>,
    /// The result of the comparison.
    pub state: DriftState,
    /// Why the current digest is unknown.
    pub why: Option<String>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DriftState {
    /// The same digest.
    Same,
    /// A different digest.
    Moved,
    /// It no longer exists.
    Gone,
    /// The current digest cannot be determined.
    Unknown,
}

/// Compares the recorded digests of these references, or of every resolved reference and every
/// local input file, with the current ones.
///
/// # Errors
/// When the store cannot be read. A source that cannot be asked is part of the report.
pub(crate) fn drift(
    store: &Store,
    registries: &Registries,
    only: &[Reference],
) -> Result<DriftReport, StoreError> {
    let mut images = Vec::new();
    let mut files = Vec::new();
    if only.is_empty() {
        for node in store.inventory()?.nodes.into_values() {
            let name = node
                .record
                .params
                .get("reference")
                .and_then(|name| name.as_str());
            if node.record.op == resolve::OP
                && let Some(Ok(reference)) = name.map(str::parse)
            {
                images.extend(image_drift(store, registries, &reference)?);
            }
        }
        for known in store.subjects(local_file::OP)? {
            if let Some(input) = known.material.inputs.first() {
                files.push(file_drift(store, &known.subject, input.digest, known.since));
            }
        }
    }
    for reference in only {
        images.extend(image_drift(store, registries, reference)?);
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let same = |drift: &Drift| drift.state == DriftState::Same;
    Ok(DriftReport {
        ok: images.iter().all(same) && files.iter().all(same),
        images,
        files,
    })
}

fn image_drift(
    store: &Store,
    registries: &Registries,
    reference: &Reference,
) -> Result<Option<Drift>, StoreError> {
    let name = reference.to_string();
    let Some((node, _)) = store.peek_node(&resolve::spec(&name).key())? else {
        return Ok(None);
    };
    let Some(root) = node.record.outputs.get("root") else {
        return Ok(None);
    };
    let recorded = root.digest();
    let now = source::open(reference, registries, store)
        .and_then(|source| source.root(store))
        .map(|document| Digest::of(&document.bytes));
    Ok(Some(compare(name, recorded, node.record.created_at, now)))
}

/// The digest that `reference` names now; `None` if it no longer exists. Nothing is recorded.
///
/// # Errors
/// When its source cannot be asked.
pub(crate) fn current(
    store: &Store,
    registries: &Registries,
    reference: &Reference,
) -> Result<Option<Digest>, SourceFailure> {
    let root = source::open(reference, registries, store).and_then(|source| source.root(store));
    match root {
        Ok(document) => Ok(Some(Digest::of(&document.bytes))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn file_drift(store: &Store, path: &str, recorded: Digest, recorded_at: String) -> Drift {
    let now = store.digest_known(Path::new(path));
    let now = now.map(|(digest, _)| digest).map_err(SourceFailure::from);
    compare(path.to_owned(), recorded, recorded_at, now)
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
