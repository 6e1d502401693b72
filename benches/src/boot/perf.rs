//! What `microagent perf boot --json` says.

use serde::{Deserialize, Serialize};

/// The document. Fields that are not looked at are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Perf {
    /// The engine's name.
    pub engine: String,
    /// What booted.
    pub kernel: Kernel,
    /// How large.
    pub resources: Resources,
    /// How often.
    pub iterations: u32,
    /// Where the time went.
    pub parts: Vec<Part>,
    /// The whole.
    pub whole: Whole,
    /// The monitor alone, ours first, then others.
    pub monitors: Vec<Monitor>,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its digest.
    pub digest: String,
    /// Its release, where it tells.
    pub version: Option<String>,
}

/// A VM's size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// vCPUs.
    pub cpu_count: u32,
}

/// Several measurements of one thing, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Millis {
    /// The middle one.
    pub median: f64,
    /// The shortest.
    pub least: f64,
    /// The longest.
    pub most: f64,
}

/// A part of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// What it is called.
    pub name: String,
    /// When it began, in milliseconds since before the process.
    pub start_millis: f64,
    /// How long it took.
    pub millis: Millis,
}

/// The whole of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whole {
    /// To the agent's report.
    pub to_agent_millis: Millis,
    /// To the first byte of output.
    pub to_first_output_millis: Option<Millis>,
    /// To the exit code.
    pub to_exit_code_millis: Millis,
    /// From the exit code to the end of the VM's process.
    pub teardown_millis: Millis,
}

/// A monitor's times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    /// Its name and version.
    pub name: String,
    /// A guest that boots to userspace and resets.
    pub userspace: Option<Times>,
    /// A guest that ends with its first instruction.
    pub nothing: Option<Times>,
}

/// How long one guest took under one monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// In milliseconds.
    pub millis: Millis,
    /// Ours divided by this one; none for ours.
    pub ours_divided_by_this: Option<f64>,
}
