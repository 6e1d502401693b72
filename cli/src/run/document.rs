//! The JSON document of a run, and its parts that other commands print too.

use std::path::PathBuf;
use std::time::SystemTime;

use microagent_cas::{Digest, NodeKey};
use microagent_pipeline::{Image, Kernel, Pipeline};
use serde::Serialize;

use super::phases::Phases;
use crate::timeline::Timeline;
use crate::request::resources::Resources;

/// `run --json`, and `run.json` of a kept workspace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunDocument {
    /// The workspace's name.
    pub workspace: String,
    /// Where everything is kept.
    pub state_dir: PathBuf,
    /// `kvm` or `qemu`.
    pub engine: &'static str,
    /// What ran.
    pub image: ImageDocument,
    /// How large it was.
    pub resources: Resources,
    /// What booted.
    pub kernel: KernelDocument,
    /// Disks besides the root.
    pub disks: Vec<DiskDocument>,
    /// What was built or found.
    pub nodes: Vec<NodeDocument>,
    /// Where the time went.
    pub phases: Phases,
    /// When each point was passed.
    pub timeline: Timeline,
    /// What the command did.
    pub result: ResultDocument,
    /// Declared outputs; there are none yet.
    pub outputs: [(); 0],
    /// `stopped`, `halted` (a kept workspace, shut down cleanly) or `failed`.
    pub final_state: &'static str,
}

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

/// A disk besides the root.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDocument {
    /// Its name.
    pub name: String,
    /// Where it is in the guest.
    pub mount: String,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// Of a disk made from a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The file of any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
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

/// What the command did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultDocument {
    /// The command was started.
    pub started: bool,
    /// When.
    pub started_at: Option<String>,
    /// When it ended or was given up.
    pub completed_at: Option<String>,
    /// Its exit code, when it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// `--timeout` fired.
    pub timed_out: bool,
    /// Its standard output; bytes that are no UTF-8 are U+FFFD.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Some of its output was dropped.
    pub truncated: bool,
}

/// A time as JSON has it: RFC 3339, UTC.
pub fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
