//! What is said inside one agent session.
//!
//! When the agent is up it opens a stream to host port [`READY_PORT`], sends one [`Ready`] message
//! and closes it. From then on the host opens sessions to guest port [`AGENT_PORT`]. A session
//! begins with one [`Request`]; what follows depends on it:
//!
//! | request | answers, in order |
//! |---|---|
//! | [`Request::Configure`] | one [`Reply::Configured`] or [`Reply::Failed`] |
//! | [`Request::Exec`] | [`Reply::Started`], any number of stdout/stderr data frames, [`Reply::Exited`]; or [`Reply::Failed`] alone. Meanwhile the host may send stdin frames and [`Input`] messages |
//! | [`Request::Shutdown`] | [`Reply::ShuttingDown`], then the guest syncs, unmounts and powers off |
//!
//! Exactly one [`Request::Configure`] must precede the first [`Request::Exec`].

use serde::{Deserialize, Serialize};

/// The vsock port on which the agent accepts sessions, in the guest.
pub const AGENT_PORT: u32 = 1024;

/// The vsock port on the host (CID 2) to which the agent reports that it is up.
pub const READY_PORT: u32 = 1025;

/// The guest's vsock context id. One VM per process and no kernel module: it need not be unique.
pub const GUEST_CID: u32 = 3;

/// The argument with which the agent resets the VM instead of doing anything else. Words after
/// `--` on a kernel's command line are arguments of its first process. For measurements.
pub const RESET_AT_ONCE: &str = "reset-at-once";

/// The agent is up and accepts sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ready {
    /// [`crate::VERSION`] of the agent.
    pub version: u32,
    /// When the agent's program began, in microseconds since the guest kernel started (its
    /// `CLOCK_BOOTTIME`).
    pub started_micros: u64,
    /// When this message was sent, by the same clock.
    pub uptime_micros: u64,
}

/// What the host asks for; the first message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Makes an anonymous VM into this one: clock, entropy, root file system, name.
    Configure(Configure),
    /// Runs one command in the root file system.
    Exec(Exec),
    /// Ends the VM: SIGTERM to all, short grace, sync, unmount, power off.
    Shutdown,
}

/// See [`Request::Configure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configure {
    /// The wall clock to set, nanoseconds since the Unix epoch, read just before sending.
    pub unix_nanos: u64,
    /// Fresh randomness from the host, mixed into and credited to the guest's pool. 32 bytes.
    #[serde(with = "crate::bytes")]
    pub entropy: Vec<u8>,
    /// The guest's host name.
    pub hostname: String,
    /// The root file system to mount and switch to.
    pub root: Root,
    /// Further disks to mount in it, parents before what is below them, whatever order they come
    /// in here.
    pub disks: Vec<Disk>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// Its block device below `/dev`, such as `vda`.
    pub device: String,
    /// Its file system type, such as `ext4`.
    pub fs_type: String,
    /// Mount it read-only.
    pub read_only: bool,
}

/// A disk besides the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disk {
    /// What it is called in messages.
    pub name: String,
    /// The serial number of its block device ([`crate::control::disk_serial`]).
    pub serial: String,
    /// Where to mount it: an absolute path in the root file system, without `..`. The directory
    /// is made when it is missing.
    pub mount: String,
    /// Its file system type, such as `ext4`.
    pub fs_type: String,
    /// Mount it read-only.
    pub read_only: bool,
}

/// See [`Request::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The command and its arguments; the first is looked up in the `PATH` of [`Exec::env`] when
    /// it holds no slash. Not empty.
    pub argv: Vec<String>,
    /// The whole environment, in order; of a name given twice the last one counts. The agent adds
    /// `HOME` from the user's entry in `/etc/passwd` when it is missing, and nothing else.
    pub env: Vec<(String, String)>,
    /// The working directory; created when missing, as container engines do. Empty means `/`.
    pub cwd: String,
    /// `user[:group]` by name or number as in an image's configuration, resolved against the
    /// image's own `/etc/passwd` and `/etc/group`. Empty means root.
    pub user: String,
    /// Whether stdin frames will follow. Otherwise the command's stdin is empty.
    pub stdin: bool,
}

/// What the host may send while a command runs, besides stdin frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Input {
    /// Sends a signal to the command's process group.
    Signal(i32),
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The VM has its identity and its root.
    Configured {
        /// How long mounting took, in microseconds.
        mount_micros: u64,
    },
    /// The command was executed.
    Started {
        /// Its process id in the guest.
        pid: u32,
    },
    /// The command ended; no frame follows.
    Exited(Exited),
    /// The power-off has begun.
    ShuttingDown,
    /// The request could not be met; no frame follows.
    Failed(Failure),
}

/// How a command ended. Exactly one of the two is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exited {
    /// The exit code, 0 to 255, of a command that ended by itself.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

/// Why a request could not be met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// Which kind of failure.
    pub kind: FailureKind,
    /// One line that names the thing.
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
    /// The request itself is wrong: out of order, or it cannot be understood.
    BadRequest,
    /// The guest's kernel refused something else.
    System,
}
