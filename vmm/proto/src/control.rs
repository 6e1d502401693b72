//! The control protocol between the command line and the supervisor of a VM.
//!
//! The socket is a `SOCK_SEQPACKET` pair; the supervisor has its end as standard input. Each packet
//! is an [`envelope`] and one JSON message, together at most [`MAX_MESSAGE`] bytes. The first is
//! [`ToSupervisor::Start`]. The supervisor's optional argument is the name of the engine that will
//! be requested ([`Engine::name`]), so that it can prepare the engine while the caller determines
//! what to boot. When the socket is closed, the VM is killed: a supervisor never outlives its
//! caller.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, Mismatch, Program};
use crate::warning::Warning;

/// The maximum size of a packet, in bytes (well below Linux's default socket buffer).
pub const MAX_MESSAGE: usize = 64 << 10;

/// Why a packet cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The sender uses another version of the protocol.
    #[error(transparent)]
    Version(#[from] Mismatch),
    /// The JSON of the message is invalid or unknown.
    #[error("the control message cannot be parsed")]
    Message(#[from] serde_json::Error),
}

/// The packet with `message`.
///
/// # Errors
/// When `message` contains a path that is not UTF-8.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut packet = envelope::envelope(crate::VERSION).to_vec();
    serde_json::to_writer(&mut packet, message)?;
    Ok(packet)
}

/// The message in `packet`, which `us` received from `peer`.
///
/// # Errors
/// As [`PacketError`] lists.
pub fn decode<T: DeserializeOwned>(
    packet: &[u8],
    us: Program,
    peer: Program,
) -> Result<T, PacketError> {
    Ok(serde_json::from_slice(envelope::open(packet, us, peer)?)?)
}

/// Messages to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToSupervisor {
    /// Boot this VM. The first message, sent once.
    Start(Box<VmConfig>),
    /// Connect the attached stream socket (`SCM_RIGHTS`, exactly one) to a vsock port of the guest.
    /// If the guest refuses the connection, the socket is closed.
    Connect {
        /// The guest's port.
        port: u32,
    },
    /// Kill the VM without notifying the guest.
    Kill,
    /// Kill the VM and close everything that it uses of the host's file systems. Answered with
    /// [`FromSupervisor::Released`]; the VM itself is torn down when the process ends.
    Release,
    /// Report the state of a VM that seems to hang. Answered with [`FromSupervisor::Diagnosis`].
    Diagnose,
    /// Stop the vCPUs. Like the following ones, answered with [`FromSupervisor::Answer`], before
    /// which the caller sends no other of them. Without effect on a paused VM.
    Pause,
    /// Let the vCPUs run again. Without effect on a VM that runs.
    Resume,
    /// Close all streams between guest and host, open no others, and discard what the guest prints
    /// on its console. Cannot be undone.
    Sever,
    /// Report what the VM uses of the host.
    Stats,
}

/// Messages from the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromSupervisor {
    /// The guest agent is up.
    Ready {
        /// When the report arrived, in microseconds of the host's `CLOCK_MONOTONIC`.
        monotonic_micros: u64,
        /// When the agent reported, in microseconds of the guest's `CLOCK_BOOTTIME`.
        uptime_micros: u64,
        /// When the agent was started, on the same clock.
        started_micros: u64,
        /// The completed steps of the boot.
        steps: Vec<Step>,
    },
    /// The answer to [`ToSupervisor::Diagnose`]. Both texts are printable ASCII.
    Diagnosis {
        /// The last lines of the guest's console, at most [`CONSOLE_TAIL`] bytes.
        console: String,
        /// Devices, queues and what the engine knows of the vCPUs, at most [`DIAGNOSIS_LIMIT`]
        /// bytes.
        report: String,
    },
    /// The answer to [`ToSupervisor::Release`].
    Released,
    /// The answer to a request about a running VM.
    Answer(Answer),
    /// Something went wrong on the host, and the VM continues.
    Warning(Warning),
    /// The guest has connected to one of [`VmConfig::listen`]. The caller's end of the stream is
    /// attached (`SCM_RIGHTS`, exactly one).
    Connection {
        /// The host's port.
        port: u32,
    },
    /// The VM ended by itself or by [`ToSupervisor::Kill`]. The last message.
    Stopped {
        /// How it ended.
        reason: StopReason,
        /// The completed steps of its boot.
        steps: Vec<Step>,
        /// The last lines of the guest's console, at most [`CONSOLE_TAIL`] bytes.
        console: String,
    },
    /// The VM could not be started, or the monitor failed. The last message.
    Failed {
        /// One line: what failed and why.
        message: String,
        /// One line: the remediation, if there is one.
        remediation: Option<String>,
        /// The last lines of the guest's console, at most [`CONSOLE_TAIL`] bytes.
        console: String,
    },
}

/// See [`FromSupervisor::Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    /// It was done.
    Done,
    /// To [`ToSupervisor::Stats`].
    Stats(VmStats),
    /// It could not be done.
    Refused {
        /// One line: why.
        message: String,
    },
}

/// What a VM uses of the host, since it was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmStats {
    /// The processor time of the supervisor and of QEMU, in microseconds.
    pub cpu_micros: u64,
    /// The memory of both, in bytes. What they share counts once, if the host tells (`smaps_rollup`
    /// of proc(5)).
    pub memory_bytes: u64,
    /// What the guest has read from its disks and written to them, in the order of
    /// [`VmConfig::disks`].
    pub disks: Vec<DiskStats>,
}

/// What a guest has read from a disk and written to it. Requests that failed do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskStats {
    /// In bytes.
    pub read_bytes: u64,
    /// In bytes.
    pub written_bytes: u64,
}

/// A completed step of a boot. Steps are recorded when they are completed and sent together, so
/// that sending does not distort the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// The step.
    pub name: StepName,
    /// When it was completed, in microseconds of `CLOCK_MONOTONIC`, which all processes of a host
    /// share.
    pub monotonic_micros: u64,
}

/// The steps of a boot, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepName {
    /// The supervisor was started.
    Supervisor,
    /// An empty VM was created, in parallel with the other steps. Engine `kvm` only.
    Prepared,
    /// The supervisor received [`ToSupervisor::Start`].
    #[serde(rename = "told")]
    StartReceived,
    /// Kernel and initramfs are loaded into guest memory.
    Loaded,
    /// The VM, its vCPUs and its devices are created.
    Created,
    /// The first vCPU is about to enter the guest.
    Running,
}

/// How much of the guest's console a message carries, in bytes.
pub const CONSOLE_TAIL: usize = 8 << 10;

/// The longest report of a [`FromSupervisor::Diagnosis`], in bytes. JSON escapes at most double
/// it, so that the message stays below [`MAX_MESSAGE`].
pub const DIAGNOSIS_LIMIT: usize = 22 << 10;

const _: () = assert!(2 * (CONSOLE_TAIL + DIAGNOSIS_LIMIT) < MAX_MESSAGE - 1024);

/// How a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopReason {
    /// The guest powered off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// A vCPU shut down (triple fault), or QEMU exited without a reason.
    Crash,
    /// [`ToSupervisor::Kill`], or the control socket closed.
    Killed,
}

/// The configuration of a VM, independent of its purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmConfig {
    /// The VM's name, for process titles and messages.
    pub name: String,
    /// The engine that runs the vCPUs; `auto` is resolved by the caller.
    pub engine: Engine,
    /// The number of vCPUs, 1 to 64.
    pub cpus: u32,
    /// Guest memory in MiB, at least 32.
    pub memory_mib: u64,
    /// The kernel: ELF `vmlinux` or bzImage.
    pub kernel: PathBuf,
    /// The initramfs, if any: a newc cpio archive, optionally in a compression format that the
    /// kernel supports.
    pub initramfs: Option<PathBuf>,
    /// Additional kernel parameters, appended to the monitor's own.
    pub extra_cmdline: Option<String>,
    /// Virtio disks in order: the first is `vda`. [`disk_serial`] defines their serial numbers.
    pub disks: Vec<DiskConfig>,
    /// A directory for sockets and scratch files of this VM: a short path, private to the user. The
    /// caller removes it.
    pub run_dir: PathBuf,
    /// Copy the guest's console output to the supervisor's standard error.
    pub console_to_stderr: bool,
    /// Vsock ports of the host on which the guest may connect to the caller, who gets each stream
    /// with a [`FromSupervisor::Connection`]. Not [`crate::agent::READY_PORT`].
    pub listen: Vec<u32>,
}

/// An engine, which runs the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// The monitor itself, on `/dev/kvm`.
    Kvm,
    /// QEMU's `microvm` machine under TCG, with the monitor's devices over vhost-user.
    Qemu,
}

impl Engine {
    /// The name used on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Kvm => "kvm",
            Engine::Qemu => "qemu",
        }
    }

    /// The engine with this name.
    pub fn from_name(name: &str) -> Option<Engine> {
        [Engine::Kvm, Engine::Qemu]
            .into_iter()
            .find(|engine| engine.name() == name)
    }
}

/// The serial number by which the guest identifies the disk at this index of [`VmConfig::disks`]
/// (at most 20 bytes, virtio 1.2 section 5.2.6.1).
pub fn disk_serial(index: usize) -> String {
    format!("disk{index}")
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskConfig {
    /// The raw image; a whole number of 512-byte sectors.
    pub path: PathBuf,
    /// How writes are handled.
    pub mode: DiskMode,
}

/// How writes to a disk are handled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DiskMode {
    /// The guest sees a read-only disk. Several VMs may share the image in this mode.
    ReadOnly,
    /// Writes go to the image, which no other VM may use at the same time.
    ReadWrite,
    /// Writes go to a sparse delta; the image is only read.
    Overlay {
        /// Where to create the delta, an unnamed file that is deleted when the VM ends.
        scratch_dir: PathBuf,
    },
    /// Writes go to a delta that is kept; the image is only read, and must stay as it is as long as
    /// the delta exists. Both files are created if they are missing; no other VM may use them at
    /// the same time.
    Delta {
        /// The blocks that were written: a sparse file as large as the image.
        delta: PathBuf,
        /// Which blocks these are.
        presence: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_message_is_read_as_it_was_written() {
        let message = ToSupervisor::Start(Box::new(VmConfig {
            name: "a".into(),
            engine: Engine::Qemu,
            cpus: 2,
            memory_mib: 256,
            kernel: "/k".into(),
            initramfs: Some("/i".into()),
            extra_cmdline: None,
            disks: vec![DiskConfig {
                path: "/d".into(),
                mode: DiskMode::Overlay {
                    scratch_dir: "/s".into(),
                },
            }],
            run_dir: "/r".into(),
            console_to_stderr: false,
            listen: vec![7],
        }));
        let packet = encode(&message).unwrap();
        let decoded: ToSupervisor =
            decode(&packet, Program::Supervisor, Program::CommandLine).unwrap();
        assert_eq!(decoded, message);
    }

    #[test]
    fn step_names_keep_their_json() {
        let json = serde_json::to_string(&StepName::StartReceived).unwrap();
        assert_eq!(json, r#""told""#);
    }

    #[test]
    fn the_error_of_an_unknown_field_names_it() {
        let error = serde_json::from_str::<DiskConfig>(r#"{"path":"/d","mode":"readOnly","x":1}"#)
            .unwrap_err();
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
    }
}
