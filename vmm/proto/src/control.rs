//! What the command line and the supervisor of a VM say to each other.
//!
//! The socket is a `SOCK_SEQPACKET` pair; the supervisor has its end as standard input. One packet
//! is one JSON message of at most [`MAX_MESSAGE`] bytes. The first is [`ToSupervisor::Start`].
//! The supervisor's argument, if there is one, is the name of the engine that the start will ask for
//! ([`Engine::name`]), so that it can prepare for it while the caller finds out what to boot.
//! When the socket closes, the VM is killed: a supervisor never outlives who started it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest message, in bytes (well below the default socket buffer of Linux).
pub const MAX_MESSAGE: usize = 64 << 10;

/// Messages to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToSupervisor {
    /// Boot this VM. First message, once.
    Start(Box<VmConfig>),
    /// Connect the stream socket that rides on this packet (`SCM_RIGHTS`, exactly one) to a vsock
    /// port of the guest. When the guest refuses, the socket is closed.
    Connect {
        /// The guest's port.
        port: u32,
    },
    /// Stop the VM now, without asking the guest.
    Kill,
    /// Report the state of a VM that seems to hang. Answered with [`FromSupervisor::Diagnosis`].
    Diagnose,
}

/// Messages from the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromSupervisor {
    /// The guest agent is up.
    Ready {
        /// When, in microseconds of `CLOCK_MONOTONIC`.
        monotonic_micros: u64,
        /// The guest's own time since its kernel started when the agent reported, in microseconds.
        uptime_micros: u64,
        /// The same when the agent's program began.
        started_micros: u64,
        /// The steps that led there.
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
    /// The VM ended by itself or by [`ToSupervisor::Kill`]. Last message.
    Stopped {
        /// How.
        reason: StopReason,
        /// The steps of its boot.
        steps: Vec<Step>,
        /// The last lines of the guest's console, at most [`CONSOLE_TAIL`] bytes.
        console: String,
    },
    /// The VM could not be started or the monitor failed. Last message.
    Failed {
        /// One line: what failed and why.
        message: String,
        /// One line: the way out, where there is one.
        remediation: Option<String>,
        /// The last lines of the guest's console, at most [`CONSOLE_TAIL`] bytes.
        console: String,
    },
}

/// When the supervisor was done with a step of a boot. Steps are noted as they are passed and told
/// together, so that being told does not cost what it measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// When, in microseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
    pub monotonic_micros: u64,
}

/// The steps of a boot, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepName {
    /// The supervisor's program began.
    Supervisor,
    /// An empty VM was created, while it was not known yet what to boot. Engine `kvm` only.
    Prepared,
    /// The supervisor received [`ToSupervisor::Start`].
    #[serde(rename = "told")]
    StartReceived,
    /// Kernel and initramfs are in guest memory.
    Loaded,
    /// The VM, its vCPUs and its devices exist.
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
    /// The guest asked for a reset.
    Reset,
    /// A vCPU shut down (triple fault), or QEMU ended without saying why.
    Crash,
    /// [`ToSupervisor::Kill`], or the control socket closed.
    Killed,
}

/// One VM: everything the supervisor needs to boot it, and nothing about what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmConfig {
    /// [`crate::VERSION`] of the sender.
    pub version: u32,
    /// The VM's name, for process titles and messages.
    pub name: String,
    /// How vCPUs are run. The caller has already decided what `auto` means.
    pub engine: Engine,
    /// Number of vCPUs, 1 to 64.
    pub cpus: u32,
    /// Guest memory in MiB, at least 32.
    pub memory_mib: u64,
    /// The kernel: ELF `vmlinux` or bzImage.
    pub kernel: PathBuf,
    /// The initramfs, if the guest has one: a newc cpio archive, plain or compressed as the kernel
    /// supports.
    pub initramfs: Option<PathBuf>,
    /// More words for the kernel's command line, after our own.
    pub extra_cmdline: Option<String>,
    /// Virtio disks in order: the first is `vda`; each has the serial number that [`disk_serial`]
    /// gives its index.
    pub disks: Vec<DiskConfig>,
    /// A directory for sockets and scratch files of this VM; short, private, removed by the caller.
    pub run_dir: PathBuf,
    /// Copy the guest's console to the supervisor's standard error as it comes.
    pub console_to_stderr: bool,
}

/// How vCPUs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// Our monitor, on `/dev/kvm`.
    Kvm,
    /// QEMU's `microvm` machine under TCG, with our devices over vhost-user.
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

/// The serial number by which the guest tells the disk at this index of [`VmConfig::disks`] from
/// others (at most 20 bytes, virtio 1.2 section 5.2.6.1).
pub fn disk_serial(index: usize) -> String {
    format!("disk{index}")
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskConfig {
    /// The raw image; a whole number of 512-byte sectors.
    pub path: PathBuf,
    /// What happens to writes.
    pub mode: DiskMode,
}

/// What happens to a disk's writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DiskMode {
    /// There are none: the guest sees a read-only disk. The image may be shared with other VMs that
    /// only read it.
    ReadOnly,
    /// They go to the image, which no other VM may have at the same time.
    ReadWrite,
    /// They go to a sparse delta over the image, which is only read.
    Overlay {
        /// Where to create the delta, without a name: it is gone with the VM.
        scratch_dir: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_message_survives_json() {
        let message = ToSupervisor::Start(Box::new(VmConfig {
            version: crate::VERSION,
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
        }));
        let json = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<ToSupervisor>(&json).unwrap(),
            message
        );
    }

    #[test]
    fn step_names_keep_their_json() {
        let json = serde_json::to_string(&StepName::StartReceived).unwrap();
        assert_eq!(json, r#""told""#);
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let error = serde_json::from_str::<DiskConfig>(r#"{"path":"/d","mode":"readOnly","x":1}"#)
            .unwrap_err();
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
    }
}
