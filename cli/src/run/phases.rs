//! Phase durations of a run.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Phase durations in milliseconds; a phase that was not reached is absent. Phases overlap, so
/// `total` is not their sum.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phases {
    /// Resolving the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<f64>,
    /// Fetching and unpacking layers, and writing the root file system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<f64>,
    /// Building disks from bundles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundles: Option<f64>,
    /// Finding or installing the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<f64>,
    /// Building the initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<f64>,
    /// Spawning the supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawn: Option<f64>,
    /// From sending the VM's configuration to the agent's report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<f64>,
    /// Configuring the guest: identity, root file system, disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configure: Option<f64>,
    /// All setup commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setup: Option<f64>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<f64>,
    /// Shutting down or killing the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teardown: Option<f64>,
    /// From the start of the command to the end of teardown.
    pub total: f64,
}

/// Runs `work` and stores its duration in `phase`, even if it fails.
pub fn timed<T>(phase: &mut Option<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *phase = Some(millis(start.elapsed()));
    result
}

/// A duration in milliseconds, rounded to microseconds.
pub fn millis(duration: Duration) -> f64 {
    // The clocks are not accurate below a microsecond.
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
