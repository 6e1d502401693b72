//! Why the agent cannot carry out a request.

use serde::{Deserialize, Serialize};

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// One line that describes it.
    pub message: String,
}

/// Kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// The command does not exist in the image (a shell's 127).
    NotFound,
    /// The command exists but cannot be executed (a shell's 126).
    NotExecutable,
    /// The image has no such user or group.
    UnknownUser,
    /// The root file system or another disk cannot be mounted.
    Mount,
    /// The request is invalid or out of order.
    BadRequest,
    /// Another operation of the guest's kernel failed.
    System,
}
