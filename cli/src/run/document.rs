//! The JSON document of a run.

use std::path::PathBuf;

use microagent_cas::Digest;
use serde::Serialize;

use super::phases::Phases;
use crate::document::{ImageDocument, KernelDocument, NodeDocument};
use crate::request::resources::Resources;
use crate::timeline::Timeline;

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
