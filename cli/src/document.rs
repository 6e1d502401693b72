//! The parts of JSON documents that several commands print.

use std::path::PathBuf;
use std::time::SystemTime;

use microagent_cas::{Digest, NodeKey};
use microagent_pipeline::{Image, Kernel, Pipeline};
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
