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
    /// As it was asked for.
    pub reference: String,
    /// Pinned by digest.
    pub resolved: String,
    /// Of the manifest for this platform.
    pub digest: Digest,
}

impl ImageDocument {
    /// Of this image.
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
    /// The file that `--kernel` named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Of the kernel image.
    pub digest: Digest,
    /// Its release, where it tells.
    pub version: Option<String>,
    /// Where it came from.
    pub source: String,
}

impl KernelDocument {
    /// Of this kernel, which `--kernel` named or not.
    pub fn new(kernel: &Kernel, path: Option<PathBuf>) -> KernelDocument {
        KernelDocument {
            path,
            digest: kernel.digest,
            version: kernel.version.clone(),
            source: kernel.source.clone(),
        }
    }
}

/// A node of the pipeline that was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDocument {
    op: String,
    key: NodeKey,
    output: Option<Digest>,
    hit: bool,
    millis: f64,
}

/// All that were asked for, in the order in which they were answered.
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

/// A time as JSON has it: RFC 3339, UTC.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
