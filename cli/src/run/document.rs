//! The JSON document of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use microagent_cas::Digest;
use microagent_proto::warning::DiskOperation;
use microagent_workspace::machine::timeline::Timeline;
use microagent_workspace::network::refusals::Summary;
use microagent_workspace::state::State;
use serde::Serialize;

use super::phases::Phases;
use crate::document::{ImageDocument, KernelDocument, NodeDocument, OutputDocument};
use crate::failure::ErrorDocument;
use crate::request::resources::Resources;

/// `run --json`, and `run.json` of a kept workspace.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunDocument {
    /// The workspace name.
    pub workspace: String,
    /// The state directory.
    pub state_dir: PathBuf,
    /// `kvm` or `qemu`.
    pub engine: &'static str,
    /// The image.
    pub image: ImageDocument,
    /// The VM's size.
    pub resources: Resources,
    /// The kernel.
    pub kernel: KernelDocument,
    /// Additional disks.
    pub disks: Vec<DiskDocument>,
    /// Pipeline nodes that were built or found in the cache.
    pub nodes: Vec<NodeDocument>,
    /// Phase durations.
    pub phases: Phases,
    /// Whether the VM was restored from a snapshot instead of booting.
    pub restored: bool,
    /// Timestamps.
    pub timeline: Timeline,
    /// The result of the command.
    pub result: ResultDocument,
    /// What went wrong on the host while the VM continued.
    pub warnings: Vec<WarningDocument>,
    /// What the rules of the network refused; null without rules.
    pub network: Option<NetworkDocument>,
    /// The outputs that were copied.
    pub outputs: Vec<OutputDocument>,
    /// Why microagent ended the run; null if the command ended by itself.
    pub error: Option<ErrorDocument>,
    /// `stopped`; `halted` if a kept workspace was shut down cleanly and its command has exited with 0;
    /// `failed`.
    pub final_state: State,
}

/// An additional disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskDocument {
    /// Its name.
    pub name: String,
    /// Mount point in the guest.
    pub mount: String,
    /// Attached read-only.
    pub read_only: bool,
    /// Digest of a disk built from a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// File of any other disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// A warning. The fields other than `message` are those of a disk.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WarningDocument {
    /// One line.
    pub message: String,
    /// Name of the disk; `root` is the root disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// Its image, or the directory of its scratch space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What the guest requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<DiskOperation>,
    /// The error of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Data that the guest wrote is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_lost: Option<bool>,
}

/// What the rules of the network refused.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkDocument {
    /// The first of each kind: frames, then names.
    pub refused: Vec<serde_json::Value>,
    /// How often each reason occurred.
    pub refused_counts: BTreeMap<String, u64>,
}

impl NetworkDocument {
    /// The document of `summary`.
    pub fn new(summary: Summary) -> NetworkDocument {
        let merged = summary.merged();
        NetworkDocument {
            refused: merged.refused,
            refused_counts: merged.refused_counts,
        }
    }
}

/// The result of the command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultDocument {
    /// The command was started.
    pub started: bool,
    /// Start time.
    pub started_at: Option<String>,
    /// Time of its end, or when it was killed.
    pub completed_at: Option<String>,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The kernel killed it, or one of its processes, because the guest's memory was exhausted.
    pub out_of_memory: bool,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// `--timeout` expired.
    pub timed_out: bool,
    /// Its standard output; invalid UTF-8 is replaced by U+FFFD.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Output was dropped.
    pub truncated: bool,
}
