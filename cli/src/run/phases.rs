//! Where the time of a run went.

use std::time::{Duration, Instant};

use serde::Serialize;

/// How long each phase took, in milliseconds; absent phases were not reached. Phases may overlap,
/// so `total` is not their sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phases {
    /// Asking what the reference means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<f64>,
    /// Fetching, unpacking and writing the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<f64>,
    /// Making disks from bundles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundles: Option<f64>,
    /// Finding or installing the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<f64>,
    /// Packing the initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<f64>,
    /// Starting the supervisor's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn: Option<f64>,
    /// From the task for the supervisor to the agent's report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<f64>,
    /// Giving the VM its root and its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configure: Option<f64>,
    /// All setup commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<f64>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<f64>,
    /// Termination the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teardown: Option<f64>,
    /// From the start of this program.
    pub total: f64,
}

/// Does something and notes how long it took, also when it fails.
pub fn timed<T>(phase: &mut Option<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *phase = Some(millis(start.elapsed()));
    result
}

/// A duration as JSON has it.
pub fn millis(duration: Duration) -> f64 {
    // Microseconds are as fine as these clocks are true.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
