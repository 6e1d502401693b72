//! From a started supervisor to a guest that accepts commands, and its clean end.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microagent_proto::agent::{AGENT_PORT, Configure, Disk, Network, Resume, Root, Trust};
use microagent_proto::control::{Engine, VmConfig};
use rustix::rand::{GetRandomFlags, getrandom};

use super::error::MachineError;
use super::saving;
use super::session::{self, SessionError};
use super::supervisor::Supervisor;
use super::timeline::Arrival;

/// Time limit from the guest's first instruction to the agent's report. On an emulated CPU of a
/// busy host a boot takes a few seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// The same for the first of [`BOOT_ATTEMPTS`] on engine `qemu`.
///
/// There a guest rarely never boots: Linux measures its timer (`calibrate_APIC_clock`) against the
/// TSC for 100 ms, and if the host does not run the vCPU for just that time, finds it too slow and
/// goes on without one. No other timer exists, so the guest waits for ever.
const FIRST_BOOT_TIMEOUT: Duration = Duration::from_secs(40);

/// How often a boot is tried. Before the agent reports, nothing of a VM is used.
pub const BOOT_ATTEMPTS: u32 = 2;

/// The time limit of a boot, counted from 1.
pub fn boot_timeout(engine: Engine, attempt: u32) -> Duration {
    match engine {
        Engine::Qemu if attempt < BOOT_ATTEMPTS => FIRST_BOOT_TIMEOUT,
        Engine::Qemu | Engine::Kvm => BOOT_TIMEOUT,
    }
}

/// Time limit for the first answer of a guest that was restored. It mounts its disks before.
const RESTORED_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for a clean shutdown: all dirty data must reach the host's disk first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Entropy for the guest, in bytes.
const ENTROPY: usize = 32;

/// What the guest is told after its boot.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guest {
    /// Its host name.
    pub hostname: String,
    /// Disks besides the root, which is `vda`.
    pub disks: Vec<Disk>,
    /// Serial number of the disk with the kernel's modules, if it has any.
    pub modules: Option<String>,
    /// Its network interface, if it has one.
    #[serde(default)]
    pub network: Option<Network>,
    /// Certificates that its programs trust.
    #[serde(default)]
    pub trust: Trust,
    /// Run each command in a cgroup of its own, so that further ones can always be started.
    pub cgroups: bool,
}

/// Boots the VM, or restores it, and waits for its agent, at most for `timeout`. `net` is the backend of its network
/// interface, if it has one.
///
/// # Errors
/// [`MachineError`].
pub fn boot(
    supervisor: &Supervisor,
    config: VmConfig,
    net: Option<OwnedFd>,
    timeout: Duration,
) -> Result<Arrival, MachineError> {
    let memory_mib = config.memory_mib;
    supervisor
        .start(config, net)
        .and_then(|()| supervisor.wait_until_ready(timeout))
        .map_err(|error| MachineError::of_vm(error, memory_mib))
}

/// Gives a VM of `memory_mib` MiB that has just come up its identity and disks.
///
/// # Errors
/// [`MachineError`].
pub fn configure(
    supervisor: &Supervisor,
    arrival: Arrival,
    guest: Guest,
    memory_mib: u64,
) -> Result<(), MachineError> {
    // A guest that has booted has shown that it runs.
    let (disk_sectors, limit) = match arrival {
        Arrival::Booted(_) => (Vec::new(), None),
        Arrival::Restored(restored) => (restored.disk_sectors, Some(RESTORED_TIMEOUT)),
    };
    let entropy = entropy()?;
    let stream = supervisor
        .connect(AGENT_PORT)
        .map_err(|error| MachineError::of_vm(error, memory_mib))?;
    let request = Configure {
        unix_nanos: unix_nanos(),
        entropy,
        hostname: guest.hostname,
        disk_sectors,
        root: Root {
            device: "vda".into(),
            fs_type: "ext4".into(),
            read_only: false,
        },
        disks: guest.disks,
        modules: guest.modules,
        network: guest.network,
        trust: guest.trust,
        cgroups: guest.cgroups,
    };
    session::configure(stream, request, limit).map_err(|error| match error {
        SessionError::TimedOut => MachineError::Hung,
        error => MachineError::of_session(error, supervisor, memory_mib),
    })
}

/// Gives a VM of `memory_mib` MiB that was saved in use, and was restored, its identity.
///
/// # Errors
/// [`MachineError`].
pub fn resume(supervisor: &Supervisor, guest: Guest, memory_mib: u64) -> Result<(), MachineError> {
    let stream = supervisor
        .connect(AGENT_PORT)
        .map_err(|error| MachineError::of_vm(error, memory_mib))?;
    let request = Resume {
        unix_nanos: unix_nanos(),
        entropy: entropy()?,
        hostname: guest.hostname,
        network: guest.network,
    };
    saving::resume(stream, request, RESTORED_TIMEOUT).map_err(|error| match error {
        SessionError::TimedOut => MachineError::Hung,
        error => MachineError::of_session(error, supervisor, memory_mib),
    })
}

/// Random bytes for a guest.
fn entropy() -> Result<Vec<u8>, MachineError> {
    let mut entropy = vec![0; ENTROPY];
    getrandom(&mut entropy[..], GetRandomFlags::empty())
        .map_err(|error| MachineError::Entropy(error.into()))?;
    Ok(entropy)
}

/// The time for a guest.
fn unix_nanos() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// Shuts the guest down cleanly, so that its disks are clean; returns whether it did.
pub fn shut_down(supervisor: &Supervisor) -> bool {
    supervisor
        .connect(AGENT_PORT)
        .ok()
        .and_then(|stream| session::shut_down(stream).ok())
        .is_some()
        && supervisor.wait_until_stopped(SHUTDOWN_TIMEOUT).is_some()
}
