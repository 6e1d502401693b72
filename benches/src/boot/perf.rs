//! The output of `microagent perf boot --json`.

use serde::{Deserialize, Serialize};

/// The document, without unused fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Perf {
    /// The engine's name.
    pub engine: String,
    /// The kernel.
    pub kernel: Kernel,
    /// The size of the VM.
    pub resources: Resources,
    /// The number of boots.
    pub iterations: u32,
    /// The parts of a boot, in order.
    pub parts: Vec<Part>,
    /// The total times.
    pub whole: Whole,
    /// The monitors without the command line: ours first, then others.
    pub monitors: Vec<Monitor>,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its digest.
    pub digest: String,
    /// Its release, if known.
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

/// A summary of repeated measurements, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Millis {
    /// The median.
    pub median: f64,
    /// The minimum.
    pub least: f64,
    /// The maximum.
    pub most: f64,
}

/// A part of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its start in milliseconds after the start of the process.
    pub start_millis: f64,
    /// Its duration.
    pub millis: Millis,
}

/// The total times of a run, from before the start of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Whole {
    /// Until the agent reports ready.
    pub to_agent_millis: Millis,
    /// Until the first byte of output.
    pub to_first_output_millis: Option<Millis>,
    /// Until the exit code.
    pub to_exit_code_millis: Millis,
    /// From the exit code until the VM's process has exited.
    pub teardown_millis: Millis,
}

/// A monitor's times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Monitor {
    /// Its name and version.
    pub name: String,
    /// A guest that boots to userspace and resets.
    pub userspace: Option<Times>,
    /// A guest whose first instruction resets.
    pub nothing: Option<Times>,
}

/// The time of one guest with one monitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// The time in milliseconds.
    pub millis: Millis,
    /// Our time divided by this one; `None` for ours.
    pub ours_divided_by_this: Option<f64>,
}
