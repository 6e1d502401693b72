//! The messages of an agent session.
//!
//! When the agent is up, it opens a stream to host port [`READY_PORT`], sends its
//! [`envelope`](crate::envelope) and one [`Ready`] message, and closes the stream. From then on the
//! host opens sessions to guest port [`AGENT_PORT`]. A session begins with the host's envelope and
//! one [`Request`], which determines the replies; the agent's envelope precedes the first reply. If it
//! does not understand the host's version or a request of that, the agent sends its envelope alone and
//! closes the stream.
//!
//! | request | replies, in order |
//! |---|---|
//! | [`Request::Settle`] | one [`Reply::Settled`] |
//! | [`Request::Configure`] | one [`Reply::Configured`] or [`Reply::Failed`] |
//! | [`Request::Exec`] | [`Reply::Started`], any number of stdout/stderr data frames and [`Reply::StdinConsumed`], [`Reply::Exited`] or [`Reply::Detached`]; or [`Reply::Failed`] alone. While the command runs, the host may send stdin frames and [`Input`] messages |
//! | [`Request::Attach`] | [`Reply::Attached`], then as above, from where the session that was lost ended; or [`Reply::Failed`] alone |
//! | the same with [`Output::Discard`] | [`Reply::Started`] alone, or [`Reply::Failed`]: the command has no session |
//! | [`Request::ReadTree`] | [`Reply::TreeOpened`], then the tree ([`crate::tree`]); or [`Reply::Failed`] alone |
//! | [`Request::WriteTree`] | one [`Reply::TreeWritten`] or [`Reply::Failed`]. The host sends the tree, and the agent reads it to its end |
//! | [`Request::Freeze`] | one [`Reply::Frozen`] or [`Reply::Failed`] |
//! | [`Request::Thaw`] | one [`Reply::Thawed`] |
//! | [`Request::Resume`] | one [`Reply::Resumed`] or [`Reply::Failed`] |
//! | [`Request::Ping`] | [`Reply::Pong`], or [`Reply::Failed`] if no command can be run |
//! | [`Request::Dial`] | [`Reply::Dialed`], then the bytes of the connection in both directions, without frames; or [`Reply::Failed`] alone |
//! | [`Request::Shutdown`] | [`Reply::ShuttingDown`], then the guest syncs, unmounts and powers off |
//!
//! Exactly one [`Request::Configure`] must precede the first request about commands or files.
//!
//! Standard input has flow control of its own, so that signals are read even while the command does
//! not read: the host may have sent at most [`STDIN_WINDOW`] bytes more than the agent has reported
//! with [`Reply::StdinConsumed`].
//!
//! A host that closes the stream before the command has ended kills it, and with it everything that
//! it started and that is still in its cgroup ([`Configure::cgroups`]) or else in its process group.
//! [`Input::Detach`] ends a session without this. With [`Exec::keep`], the command goes on when its session
//! is lost, and waits as soon as a pipe is full, until [`Request::Attach`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::failure::{Failure, FailureKind};
use crate::tree::{ReadTree, WriteTree};

/// The vsock port on which the agent accepts sessions, in the guest.
pub const AGENT_PORT: u32 = 1024;

/// The vsock port on the host (CID 2) to which the agent reports when it is up.
pub const READY_PORT: u32 = 1025;

/// The vsock port on the host that resolves names, if the VM has a network. A stream carries queries
/// and answers as DNS over TCP does (RFC 1035 section 4.2.2): each after its length in 16 bits,
/// big-endian.
pub const DNS_PORT: u32 = 1026;

/// How many bytes of standard input may be on their way to a command.
pub const STDIN_WINDOW: usize = 256 << 10;

/// The guest's bundle with all certificates: a symbolic link to one that the image has, or that the
/// agent has made. Only with [`Trust::certificates`].
pub const CA_BUNDLE: &str = "/etc/microagent/ca-bundle.pem";

/// A file with those of [`Trust::certificates`] alone.
pub const CA_EXTRA: &str = "/etc/microagent/ca-extra.pem";

/// The guest's vsock context id. Each VM has its own vsock device in user space, so the id need not
/// be unique on the host.
pub const GUEST_CID: u32 = 3;

/// The address of the network interface of a VM that is saved before it is known what it will run. The
/// agent gives it the one of [`Network::mac`].
pub const UNNAMED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// The argument that makes the agent reset the VM immediately, for benchmarks. The kernel passes
/// the words after `--` on its command line to the first process.
pub const RESET_AT_ONCE: &str = "reset-at-once";

/// The agent is up and accepts sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// When the agent was started, in microseconds of the guest's `CLOCK_BOOTTIME`.
    pub started_micros: u64,
    /// When this message was sent, on the same clock.
    pub uptime_micros: u64,
}

/// The first message of a session, from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Frees the memory that the boot used for caches: the VM is about to be saved.
    Settle,
    /// Configures the VM: entropy, clock, host name, root file system, disks.
    Configure(Configure),
    /// Runs one command in the root file system.
    Exec(Exec),
    /// Goes on with the workload whose session was lost ([`Exec::keep`]).
    Attach,
    /// Stops all processes but the agent's own, and writes to the disks what they have written: the VM is about
    /// to be saved.
    Freeze,
    /// Lets them run again.
    Thaw,
    /// Gives a configured VM that was saved, and has just been restored, its identity and the time, and lets its
    /// processes run again.
    Resume(Resume),
    /// Reads files.
    ReadTree(ReadTree),
    /// Writes files.
    WriteTree(WriteTree),
    /// Can commands be run?
    Ping,
    /// Connects the session to a TCP server of the guest, on its loopback interface.
    Dial {
        /// The server's port.
        port: u16,
    },
    /// Shuts down the VM: SIGTERM to all processes, SIGKILL after a grace period, sync, unmount,
    /// power off.
    Shutdown,
}

/// See [`Request::Configure`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configure {
    /// The wall-clock time to set, in nanoseconds since the Unix epoch, read just before sending.
    pub unix_nanos: u64,
    /// Random bytes from the host, mixed into the guest's entropy pool and credited. 32 bytes.
    #[serde(with = "crate::bytes")]
    pub entropy: Vec<u8>,
    /// The guest's host name.
    pub hostname: String,
    /// The sizes of the disks `vda`, `vdb` and so on, in sectors of 512 bytes, if the guest may not know
    /// them yet: it waits until it does.
    #[serde(default)]
    pub disk_sectors: Vec<u64>,
    /// The root file system to mount and switch to.
    pub root: Root,
    /// Further disks to mount in it, in any order: the agent mounts parent directories first.
    pub disks: Vec<Disk>,
    /// The serial number of the disk with the kernel's modules ([`crate::control::disk_serial`]):
    /// the content of `/lib/modules/RELEASE`, as an ext4 file system.
    pub modules: Option<String>,
    /// The network interface to configure besides the loopback, if there is one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Certificates that programs are to trust.
    #[serde(default)]
    pub trust: Trust,
    /// Runs each command in a cgroup of its own (version 2), which limits its memory and processes
    /// so that the guest can always start another one. A guest whose kernel has no cgroups runs them
    /// without.
    pub cgroups: bool,
}

/// See [`Request::Resume`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resume {
    /// As [`Configure::unix_nanos`].
    pub unix_nanos: u64,
    /// As [`Configure::entropy`].
    #[serde(with = "crate::bytes")]
    pub entropy: Vec<u8>,
    /// The guest's host name.
    pub hostname: String,
    /// The network interface, which may have another address than when the VM was saved.
    pub network: Option<Network>,
}

/// Certificates of authorities that the guest's programs trust beside those of its image. The agent
/// adds them to the bundles that the image has, or makes one, and provides [`CA_BUNDLE`] and
/// [`CA_EXTRA`]. Those that an earlier start added and that are not among them are removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Each alone, in PEM as OpenSSL writes it: lines of 64 characters, a newline at the end.
    pub certificates: Vec<String>,
    /// Bundles of the image beside those that are known by their paths; absolute.
    pub bundles: Vec<String>,
}

/// A network interface and its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// The hardware address by which the agent finds it, or which it gives the one with
    /// [`UNNAMED_MAC`].
    pub mac: [u8; 6],
    /// Its maximum transmission unit, in bytes.
    pub mtu: u32,
    /// Its addresses and default routes, at most one of each family.
    pub addresses: Vec<Address>,
    /// Whether names are resolved by the host: `/etc/resolv.conf` then names the agent, which passes
    /// queries on to the host's [`DNS_PORT`].
    pub resolver: bool,
    /// The domains in which short names are looked up.
    pub search: Vec<String>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix, in bits.
    pub prefix: u8,
    /// The router of the default route, which is in the same network.
    pub gateway: Option<IpAddr>,
}

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Its name in messages.
    pub name: String,
    /// The serial number of its block device ([`crate::control::disk_serial`]).
    pub serial: String,
    /// The mount point: an absolute path in the root file system, without `..`. The directory is
    /// created if it is missing.
    pub mount: String,
    /// Its file system type, such as `ext4`.
    pub fs_type: String,
    /// Mount it read-only.
    pub read_only: bool,
}

/// See [`Request::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// The command and its arguments; not empty. A command without a slash is looked up in the
    /// `PATH` of [`Exec::env`].
    pub argv: Vec<String>,
    /// The complete environment, in order. If a name occurs twice, the last value is used. The
    /// agent adds only `HOME`, from the user's entry in `/etc/passwd`, if it is missing or empty.
    pub env: Vec<(String, String)>,
    /// The working directory; created if it is missing, as container engines do. Empty means `/`.
    pub cwd: String,
    /// `user[:group]` by name or number, as in an image's configuration, resolved with the image's
    /// `/etc/passwd` and `/etc/group`. Empty means root.
    pub user: String,
    /// Whether stdin frames will follow. If not, the command's standard input is empty, unless it is
    /// a terminal.
    pub stdin: bool,
    /// Where its output goes.
    pub output: Output,
    /// Where the command runs.
    pub place: Place,
    /// The command is a workload that goes on when its session is lost.
    #[serde(default)]
    pub keep: bool,
}

/// Where the output of a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// Standard output and standard error are two pipes, and are sent as frames of two kinds.
    Separate,
    /// Both are one pipe, and are sent as stdout frames, in the order in which they were written.
    Merged,
    /// The command is the leader of a session with a controlling terminal of this size. Its standard
    /// streams are the terminal; what is written to that is sent as stdout frames.
    Terminal(WindowSize),
    /// Both are `/dev/null`. The command lives on without a session: the agent closes the stream
    /// after [`Reply::Started`].
    Discard,
}

/// The size of a terminal, in characters; 0 if it is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowSize {
    /// The number of rows.
    pub rows: u16,
    /// The number of columns.
    pub columns: u16,
}

/// Where a command runs. A command sees the processes of its own PID namespace only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// As the VM's workload: the first process (PID 1) of namespaces of its own. A VM has at most
    /// one workload at a time; when it ends, the kernel kills all other processes in its namespace.
    /// As in a container, signals whose action is the default have no effect on it, except SIGKILL
    /// and SIGSTOP from outside.
    Workload,
    /// With the workload if one runs, otherwise in the namespaces that all commands share which are
    /// started while none runs. Processes that such a command leaves there live on.
    Beside,
}

/// Messages that the host may send while a command runs, in addition to stdin frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Input {
    /// Sends a signal to the command's process.
    Signal(i32),
    /// Sends a signal to the command's process group.
    SignalGroup(i32),
    /// Kills the command and everything that it started and that is still in its cgroup or else in
    /// its process group.
    Kill,
    /// The command's terminal has another size. The kernel sends SIGWINCH to its foreground process
    /// group. Ignored for a command without a terminal.
    Resize(WindowSize),
    /// The host leaves: the agent replies [`Reply::Detached`], the command lives on, and what it
    /// writes is discarded. Its terminal stays open, so it gets no SIGHUP.
    Detach,
}

/// The agent's replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The memory is free.
    Settled,
    /// The VM is configured.
    Configured {
        /// The duration of all mounts, in microseconds.
        mount_micros: u64,
        /// How many certificates of [`Configure::trust`] it trusts. An agent that does not know that
        /// field trusts none.
        #[serde(default)]
        certificates: usize,
    },
    /// The command was started.
    Started {
        /// Its process id in the agent's namespace.
        pid: u32,
        /// With [`Output::Discard`]: its process id in its own namespace, as other commands there see
        /// it, unless it has already been reaped.
        inner_pid: Option<u32>,
    },
    /// The command has read, or will never read, this many further bytes of its standard input.
    StdinConsumed {
        /// The number of bytes.
        bytes: usize,
    },
    /// The command ended; no frame follows.
    Exited(Exited),
    /// The command lives on without this session; no frame follows.
    Detached,
    /// The tree to read was found, and follows.
    TreeOpened,
    /// The tree was written.
    TreeWritten {
        /// How many files of types that are not written were left out.
        skipped: u64,
    },
    /// The session is that of the workload.
    Attached,
    /// No process runs.
    Frozen,
    /// They run again.
    Thawed,
    /// The VM has its identity.
    Resumed,
    /// The VM is configured and runs commands.
    Pong,
    /// The session is connected to the server.
    Dialed,
    /// The shutdown has begun.
    ShuttingDown,
    /// The request failed; no frame follows.
    Failed(Failure),
}

/// How a command ended. Exactly one of `code` and `signal` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exited {
    /// The exit code of a command that exited, 0 to 255.
    pub code: Option<i32>,
    /// The signal that killed the command.
    pub signal: Option<i32>,
    /// The kernel has killed a process while the command ran because memory was exhausted. It may
    /// have been another process than the command's own.
    pub out_of_memory: bool,
}
