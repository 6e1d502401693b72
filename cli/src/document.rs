//! The parts of JSON documents that several commands print.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use microagent_cas::{Digest, NodeKey};
use microagent_pipeline::{Image, Kernel, Pipeline};
use microagent_workspace::spec::OutputPath;
use microagent_workspace::summary::Summarized;
use serde::Serialize;

/// An image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDocument {
    /// As given on the command line.
    pub reference: String,
    /// Pinned by digest.
    pub resolved: String,
    /// Digest of the manifest for this platform.
    pub digest: Digest,
}

impl ImageDocument {
    /// The document of `image`.
    pub fn new(image: &Image) -> ImageDocument {
        ImageDocument {
            reference: image.reference.clone(),
            resolved: image.resolved.clone(),
            digest: image.digest,
        }
    }
}

/// An output that was copied out of a guest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDocument {
    /// Its name.
    pub name: String,
    /// Its path in the guest.
    pub path: String,
    /// The digest of a file, or of the list of digests of a directory's files.
    pub digest: Digest,
    /// The size of all its files in bytes.
    pub size: u64,
    /// The copy on the host, an absolute path.
    pub copy: PathBuf,
}

impl OutputDocument {
    /// The document of `output`, which was copied to `copy`.
    pub fn new(output: &OutputPath, found: &Summarized, copy: &Path) -> OutputDocument {
        OutputDocument {
            name: output.name.clone(),
            path: output.path.clone(),
            digest: found.digest,
            size: found.size,
            copy: std::path::absolute(copy).unwrap_or_else(|_| copy.to_owned()),
        }
    }
}

/// A kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelDocument {
    /// The file given with `--kernel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Digest of the kernel image.
    pub digest: Digest,
    /// Its release, if known.
    pub version: Option<String>,
    /// Where it came from.
    pub source: String,
}

impl KernelDocument {
    /// The document of `kernel`; `path` is the value of `--kernel`.
    pub fn new(kernel: &Kernel, path: Option<PathBuf>) -> KernelDocument {
        KernelDocument {
            path,
            digest: kernel.digest,
            version: kernel.version.clone(),
            source: kernel.source.clone(),
        }
    }
}

/// A requested pipeline node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDocument {
    op: String,
    key: NodeKey,
    output: Option<Digest>,
    hit: bool,
    millis: f64,
}

/// All requested nodes, in order of completion.
pub fn nodes(pipeline: &Pipeline) -> Vec<NodeDocument> {
    let document = |report: microagent_pipeline::NodeReport| NodeDocument {
        op: report.op,
        key: report.key,
        output: report.output,
        hit: report.hit,
        millis: report.millis,
    };
    pipeline.reports().into_iter().map(document).collect()
}

/// A time as RFC 3339 in UTC, with milliseconds.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
