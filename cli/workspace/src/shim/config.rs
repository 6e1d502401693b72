//! What a shim is told by the command that starts it.

use std::path::PathBuf;

use microagent_proto::agent::Exec;
use microagent_proto::control::VmConfig;
use serde::{Deserialize, Serialize};

use crate::boot::Boot;
use crate::machine::boot::Guest;
use crate::network::Plan;
use crate::spec::{Forward, Mediation};
use crate::warm::Programs;
use crate::warm::snapshots::Snapshots;

/// A workspace to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShimConfig {
    /// The directory of the workspace.
    pub directory: PathBuf,
    /// The identity of the workspace.
    pub runtime_id: String,
    /// The caller's label.
    pub role: String,
    /// The identity of this start.
    pub request_id: String,
    /// The supervisor program.
    pub supervisor: PathBuf,
    /// The VM. Its `run_dir` is ignored: the shim makes its own.
    pub vm: VmConfig,
    /// The time limit of the boot, in seconds.
    pub boot_timeout: u64,
    /// What the VM boots, or has booted.
    pub boot: Boot,
    /// How the VM comes up.
    pub origin: Origin,
    /// The programs that it consists of, if they are known.
    pub programs: Option<Programs>,
    /// What the guest is told after its boot.
    pub guest: Guest,
    /// What to run; without it the VM idles.
    pub workload: Option<Exec>,
    /// The server of the host that the guest reaches; its port is in the list of the VM.
    pub mediation: Option<Mediation>,
    /// Its network; the device and what the guest is told follow from it.
    pub network: Option<Plan>,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
    /// The signal that asks the workload to end.
    pub stop_signal: i32,
    /// How long it may run, in seconds.
    pub timeout: Option<u32>,
    /// How long it may be without use, in seconds.
    pub ttl: Option<u32>,
    /// It is suspended then, and not stopped.
    pub suspend: bool,
}

/// How the VM of a workspace comes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Origin {
    /// It boots.
    Boot,
    /// It is restored from a snapshot of an idle VM, or boots and has one taken for the next.
    Idle(Snapshots),
    /// It goes on from what was [saved](crate::saved) of a workspace.
    Saved(PathBuf),
}

/// The shim's report to the command that started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Started {
    /// The guest is ready and the workload was executed.
    Ready,
    /// The workspace could not be started.
    Failed {
        /// The kind of failure, as in documents.
        kind: String,
        /// One line: what failed and why.
        message: String,
        /// One line: the way out, if there is one.
        remediation: Option<String>,
    },
}
