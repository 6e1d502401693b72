//! Warnings: what the user of a running VM should know although the VM continues.

use serde::{Deserialize, Serialize};

/// The maximum number of warnings about disks, and of those from the log, that a supervisor sends.
pub const MAX_WARNINGS: usize = 64;

/// The maximum length of the text in a warning, in bytes; longer texts are cut.
pub const MAX_WARNING_TEXT: usize = 512;

/// A warning of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Warning {
    /// A request of the guest to a disk failed on the host. Sent before the guest receives its I/O
    /// error, once per disk and operation.
    Disk(DiskFailure),
    /// A message of the monitor's log, level warning or error. Sent once for each place in the code
    /// that logs.
    Log(String),
}

/// The host's error for a request to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskFailure {
    /// The index of the disk in [`VmConfig::disks`](crate::control::VmConfig::disks).
    pub index: usize,
    /// What the guest requested.
    pub operation: DiskOperation,
    /// The error number of the failed system call; `None` if the image is shorter than it was.
    pub errno: Option<i32>,
    /// The error as text.
    pub error: String,
}

/// The kinds of requests to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DiskOperation {
    /// Read.
    Read,
    /// Write, or fill with zeros.
    Write,
    /// Make completed writes durable.
    Flush,
    /// Free a range.
    Discard,
}

impl DiskOperation {
    /// Whether data that the guest wrote is lost if the operation fails.
    pub fn loses_data(self) -> bool {
        matches!(self, DiskOperation::Write | DiskOperation::Flush)
    }
}
