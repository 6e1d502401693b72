//! The control protocol between the command line and the supervisor of a VM.
//!
//! The socket is a `SOCK_SEQPACKET` pair; the supervisor has its end as standard input. Each packet
//! is an [`envelope`] and one JSON message, together at most [`MAX_MESSAGE`] bytes. The first is
//! [`ToSupervisor::Start`]. The supervisor's optional argument is the name of the engine that will
//! be requested ([`Engine::name`]), so that it can prepare the engine while the caller determines
//! what to boot. When the socket is closed, the VM is killed: a supervisor never outlives its
//! caller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent::Address;
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
    /// Boot this VM. The first message, sent once. With [`VmConfig::net`], the backend of the network
    /// interface is attached (`SCM_RIGHTS`, exactly one).
    Start(Box<VmConfig>),
    /// Write the state of a VM that is paused to the attached file (`SCM_RIGHTS`, exactly one), which is
    /// empty, as [`VmConfig::saved`] reads it. Answered with [`FromSupervisor::Answer`].
    Save,
    /// Replace the backend of the network interface by the attached one (`SCM_RIGHTS`, exactly one),
    /// of the same kind.
    AttachNet,
    /// Connect the attached stream socket (`SCM_RIGHTS`, exactly one) to a vsock port of the guest.
    /// If the guest refuses the connection, the socket is closed.
    Connect {
        /// The guest's port.
        port: u32,
    },
    /// Allow new connections of the guest to the addresses that a name was answered with, as far as
    /// the rules of [`NetConfig::egress`] allow the name. Answered with [`FromSupervisor::Answer`],
    /// before which the guest gets no answer.
    Pin(Pin),
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
    /// The VM is restored from [`VmConfig::saved`]: its agent accepts sessions, and reports nothing.
    Restored {
        /// The completed steps.
        steps: Vec<Step>,
        /// The number of sectors of each disk, of 512 bytes. The guest notices later that they are
        /// others than when it was saved.
        disk_sectors: Vec<u64>,
    },
    /// The VM boots, because [`VmConfig::saved`] cannot be used.
    NotRestored {
        /// One line: why.
        message: String,
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
    /// [`NetConfig::egress`] has refused something since the last such message: within
    /// [`REFUSED_PERIOD`], at most once in it, and before [`FromSupervisor::Released`] and the last
    /// message.
    Refused(Refused),
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
    /// What passed its network interface, if it has one.
    pub net: Option<NetStats>,
}

/// What passed a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetStats {
    /// Bytes of frames that the guest sent and the backend accepted.
    pub sent_bytes: u64,
    /// The number of these frames.
    pub sent_frames: u64,
    /// Bytes of frames that were delivered to the guest.
    pub received_bytes: u64,
    /// The number of these frames.
    pub received_frames: u64,
    /// What [`NetConfig::egress`] refused.
    #[serde(flatten)]
    pub refused: Refused,
}

/// What rules have refused since the start of a VM. The reasons are text, so that one that a newer
/// peer has added is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// The first of each kind, as `microagent_egress::Refusal` is serialised, in the order of their
    /// first occurrence; at most [`MAX_REFUSALS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<serde_json::Value>,
    /// How often each reason occurred, also for what is not listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused_counts: BTreeMap<String, u64>,
}

impl Refused {
    /// Of refusals and counts as `microagent_egress` serialises them.
    pub fn new(refusals: &[impl Serialize], counts: &impl Serialize) -> Refused {
        let listed = refusals.iter().take(MAX_REFUSALS);
        let counts = serde_json::to_value(counts).and_then(serde_json::from_value);
        Refused {
            refused: listed
                .filter_map(|refusal| serde_json::to_value(refusal).ok())
                .collect(),
            refused_counts: counts.unwrap_or_default(),
        }
    }

    /// How much was refused.
    pub fn total(&self) -> u64 {
        let counts = self.refused_counts.values();
        counts.fold(0, |total, count| total.saturating_add(*count))
    }

    /// Adds what was refused elsewhere.
    pub fn add(&mut self, other: Refused) {
        self.refused.extend(other.refused);
        for (reason, count) in other.refused_counts {
            let sum = self.refused_counts.entry(reason).or_default();
            *sum = sum.saturating_add(count);
        }
    }
}

/// The maximum number of refusals in a message.
pub const MAX_REFUSALS: usize = 100;

/// How long the supervisor may wait before it reports refusals.
pub const REFUSED_PERIOD: Duration = Duration::from_secs(1);

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
    /// Kernel and initramfs are loaded into guest memory, or [`VmConfig::saved`] is mapped there.
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
    /// The network interface, if it has one.
    pub net: Option<NetConfig>,
    /// What the VM is restored from. If it can be used, nothing boots.
    #[serde(default)]
    pub saved: Option<SavedVm>,
}

/// A VM that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavedVm {
    /// A file of [`ToSupervisor::Save`], made of a VM with the same monitor, processor, kernel, initramfs,
    /// number of vCPUs, memory and devices, whose disks may have had other sizes. It must not change as
    /// long as the VM exists.
    pub file: PathBuf,
    /// A file with the pages of memory that VMs write which go on from it: a hint that saves time. It may
    /// be missing; then the monitor writes it.
    pub pages: PathBuf,
    /// The guest was configured and may have had streams to its host, which are reset. Such a VM does not
    /// boot if it cannot be restored.
    #[serde(default)]
    pub in_use: bool,
}

/// The network interface of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetConfig {
    /// Its address: unicast, the octets in transmission order.
    pub mac: [u8; 6],
    /// What the attached descriptor is.
    pub backend: NetBackend,
    /// The guest's addresses.
    pub addresses: Vec<Address>,
    /// What it may send (`microagent_egress::Policy`); without it, everything.
    pub egress: Option<Vec<String>>,
}

/// The addresses that a name was answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long they may be used for new connections, in milliseconds.
    pub lifetime_millis: u64,
}

/// The host side of a network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NetBackend {
    /// A connected stream socket that carries frames, each after its length in 32 bits, big-endian:
    /// the protocol of `passt`.
    Stream,
    /// An open `/dev/net/tun` that is attached to a TAP interface with virtio headers.
    Tap,
}

/// The maximum transmission unit of every network interface, in bytes: the largest that `passt`
/// carries. The agent gives the guest's interface a smaller one where the network has it.
pub const NET_MTU: u16 = 65520;

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
            net: Some(NetConfig {
                mac: [2, 0, 0, 0, 0, 1],
                backend: NetBackend::Stream,
                addresses: Vec::new(),
                egress: Some(vec!["allow=a.example".into()]),
            }),
            saved: Some(SavedVm {
                file: "/m".into(),
                pages: "/p".into(),
                in_use: true,
            }),
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
    fn refusals_of_older_and_newer_peers_are_understood() {
        let read = |refused: &str| {
            let counters = r#""sentBytes":1,"sentFrames":2,"receivedBytes":3,"receivedFrames":4"#;
            let stats: NetStats =
                serde_json::from_str(&format!("{{{counters}{refused}}}")).unwrap();
            assert_eq!((stats.sent_bytes, stats.received_frames), (1, 4));
            let text = serde_json::to_string(&stats).unwrap();
            assert_eq!(serde_json::from_str::<NetStats>(&text).unwrap(), stats);
            stats.refused
        };
        assert_eq!(read(""), Refused::default());
        let listed = read(r#","refused":[{"reason":"noRule","count":7}]"#);
        assert_eq!((listed.refused.len(), listed.total()), (1, 0));
        let mut newer = read(
            r#","refused":[{"reason":"mood","feeling":["bad"],"count":7}],
               "refusedCounts":{"mood":8,"noRule":1},"refusedSince":"today""#,
        );
        assert_eq!(newer.total(), 9);
        newer.add(Refused {
            refused: listed.refused,
            refused_counts: [("noRule".to_owned(), 2), ("mood".to_owned(), u64::MAX)].into(),
        });
        assert_eq!(
            serde_json::to_string(&newer).unwrap(),
            r#"{"refused":[{"count":7,"feeling":["bad"],"reason":"mood"},{"count":7,"reason":"noRule"}],"refusedCounts":{"mood":18446744073709551615,"noRule":3}}"#
        );
        assert_eq!(newer.total(), u64::MAX);
    }

    #[test]
    fn the_error_of_an_unknown_field_names_it() {
        let error = serde_json::from_str::<DiskConfig>(r#"{"path":"/d","mode":"readOnly","x":1}"#)
            .unwrap_err();
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
    }
}
