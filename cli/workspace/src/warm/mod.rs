//! Snapshots of idle booted VMs: a VM for which there is one does not boot.
//!
//! A snapshot is taken when the agent is up and has been told nothing. Image, command, names, addresses,
//! entropy and time are given to the restored VM as to one that has booted, so one snapshot serves every
//! image. It is made for a shape: the number of processors, the memory, and the devices with their
//! features ([`DiskKind`]); what is behind the devices is not part of it. It is a node of the pipeline,
//! whose key has everything else that it depends on.

pub mod attempt;
pub mod beside;
mod refused;
pub mod snapshots;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store, StoreError};
use microagent_pipeline::{Error, Pipeline, Snapshot, SnapshotInputs};
use microagent_proto::agent::{AGENT_PORT, UNNAMED_MAC};
use microagent_proto::control::{DiskConfig, DiskMode, NetBackend, NetConfig, SavedVm, VmConfig};
use microagent_vmm::probe::host_identity;
use serde::{Deserialize, Serialize};

use crate::machine::MachineError;
use crate::machine::boot::{boot, boot_timeout};
use crate::machine::run_dir::{RunDir, RunDirError};
use crate::machine::saving;
use crate::machine::supervisor::{ControlError, Supervisor};
pub use refused::Refused;

/// The size of the disks of a VM that is saved, in bytes: not zero, because Linux sends no event when a
/// size changes from that.
const DISK_SIZE: u64 = 1 << 20;

/// The names of files with the pages that VMs of a snapshot write begin with this.
const PAGES: &str = "pages-";

/// A snapshot could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node of the pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] Error),
    /// The VM failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// It could not be saved.
    #[error("the VM cannot be saved")]
    Save(#[from] ControlError),
    /// There is no directory for its sockets.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// A system call failed.
    #[error("cannot prepare a VM to be saved")]
    Io(#[from] io::Error),
}

/// The programs that a VM consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Programs {
    /// The monitor's.
    pub monitor: PathBuf,
    /// Its digest.
    pub monitor_digest: Digest,
    /// The kernel.
    pub kernel: Digest,
    /// The initramfs with the agent.
    pub initramfs: Digest,
    /// What of the host they run on is part of a snapshot ([`host_identity`]).
    pub host: String,
}

impl Programs {
    /// The programs of VMs of this monitor. It is read if the store does not know it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(
        store: &Store,
        monitor: &Path,
        kernel: Digest,
        initramfs: Digest,
    ) -> Result<Programs, StoreError> {
        Ok(Programs {
            monitor: monitor.to_owned(),
            monitor_digest: store.digest_known(monitor)?.0,
            kernel,
            initramfs,
            host: host_identity(),
        })
    }
}

/// What a guest sees of how writes to a disk are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum DiskKind {
    ReadOnly,
    /// Nothing is flushed.
    Discarded,
    Kept,
}

impl DiskKind {
    fn of(disk: &DiskConfig) -> DiskKind {
        match disk.mode {
            DiskMode::ReadOnly => DiskKind::ReadOnly,
            DiskMode::Overlay { .. } => DiskKind::Discarded,
            DiskMode::ReadWrite | DiskMode::Delta { .. } => DiskKind::Kept,
        }
    }

    /// An empty disk of this kind in `directory`.
    fn empty(self, number: usize, directory: &Path) -> io::Result<DiskConfig> {
        let path = directory.join(format!("disk{number}"));
        File::create(&path)?.set_len(DISK_SIZE)?;
        Ok(DiskConfig {
            path,
            mode: match self {
                DiskKind::ReadOnly => DiskMode::ReadOnly,
                DiskKind::Discarded => DiskMode::Overlay {
                    scratch_dir: directory.to_owned(),
                },
                DiskKind::Kept => DiskMode::ReadWrite,
            },
        })
    }
}

/// What the snapshot for such a VM depends on.
fn inputs(programs: &Programs, config: &VmConfig) -> SnapshotInputs {
    let disks: Vec<DiskKind> = config.disks.iter().map(DiskKind::of).collect();
    SnapshotInputs {
        monitor: programs.monitor_digest,
        kernel: programs.kernel,
        initramfs: programs.initramfs,
        shape: serde_json::json!({
            "cpus": config.cpus,
            "memoryMib": config.memory_mib,
            "disks": disks,
            "net": config.net.is_some(),
            "commandLine": config.extra_cmdline,
            "console": config.console_to_stderr,
        }),
        host: programs.host.clone(),
    }
}

/// The digest of everything that must be the same for what was saved of such a VM to go on.
pub fn key(programs: &Programs, config: &VmConfig) -> Digest {
    *inputs(programs, config).key().digest()
}

/// Finds the snapshot for such a VM; `None` if there is none. What is known about it is in `directory`.
///
/// # Errors
/// When the store cannot be read.
pub fn find(
    pipeline: &Pipeline,
    programs: &Programs,
    config: &VmConfig,
    directory: &Path,
) -> Result<Option<SavedVm>, Error> {
    let found = pipeline.find_snapshot(&inputs(programs, config))?;
    Ok(found.map(|snapshot| SavedVm {
        pages: directory.join(format!("{PAGES}{}", snapshot.name())),
        file: snapshot.path,
        in_use: false,
    }))
}

/// Takes the snapshot for such a VM, unless it is in the store and `again` is false: boots one with empty
/// disks, and saves it when its agent is idle. What is behind the devices of `config` is not used; its
/// sockets and its empty disks are in `run_dir`.
///
/// # Errors
/// [`WarmError`].
pub fn take(
    pipeline: &Pipeline,
    programs: &Programs,
    config: &VmConfig,
    again: bool,
    run_dir: RunDir,
) -> Result<Snapshot, WarmError> {
    pipeline.snapshot(&inputs(programs, config), again, |file| {
        boot_and_save(programs, config, file, &run_dir)
    })
}

fn boot_and_save(
    programs: &Programs,
    config: &VmConfig,
    file: &File,
    run_dir: &RunDir,
) -> Result<(), WarmError> {
    let disks = (config.disks.iter().enumerate())
        .map(|(number, disk)| DiskKind::of(disk).empty(number, run_dir.path()))
        .collect::<io::Result<_>>()?;
    // Nothing reads what the guest sends, which is nothing: its interface is down.
    let (backend, _network) = UnixStream::pair()?;
    let net = config.net.as_ref().map(|_| NetConfig {
        mac: UNNAMED_MAC,
        backend: NetBackend::Stream,
        addresses: Vec::new(),
        egress: None,
    });
    let backend = net.is_some().then(|| OwnedFd::from(backend));
    let vm = VmConfig {
        name: "snapshot".to_owned(),
        disks,
        run_dir: run_dir.path().to_owned(),
        listen: Vec::new(),
        net,
        saved: None,
        ..config.clone()
    };
    let (engine, memory_mib) = (vm.engine, vm.memory_mib);
    let vm_error = |error| MachineError::of_vm(error, memory_mib);
    let supervisor = Supervisor::spawn(&programs.monitor, engine, false).map_err(vm_error)?;
    boot(&supervisor, vm, backend, boot_timeout(engine, 1))?;
    let stream = supervisor.connect(AGENT_PORT).map_err(vm_error)?;
    saving::settle(stream)
        .map_err(|error| MachineError::of_session(error, &supervisor, memory_mib))?;
    let controller = supervisor.controller();
    controller.pause()?;
    controller.save(file.try_clone()?.into())?;
    supervisor.end(false);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use microagent_proto::control::Engine;

    use super::*;

    pub fn programs() -> Programs {
        Programs {
            monitor: "/monitor".into(),
            monitor_digest: Digest::of(b"monitor"),
            kernel: Digest::of(b"kernel"),
            initramfs: Digest::of(b"initramfs"),
            host: "host".into(),
        }
    }

    fn disk(path: &str, mode: DiskMode) -> DiskConfig {
        let path = path.into();
        DiskConfig { path, mode }
    }

    pub fn config() -> VmConfig {
        let scratch_dir = "/scratch".into();
        VmConfig {
            name: "one".into(),
            engine: Engine::Kvm,
            cpus: 1,
            memory_mib: 256,
            kernel: "/kernel".into(),
            initramfs: None,
            extra_cmdline: None,
            disks: vec![disk("/one", DiskMode::Overlay { scratch_dir })],
            run_dir: "/run".into(),
            console_to_stderr: false,
            listen: Vec::new(),
            net: None,
            saved: None,
        }
    }

    #[test]
    fn a_snapshot_is_for_a_shape_and_not_for_what_is_behind_it() {
        let of = |config: &VmConfig| inputs(&programs(), config);
        let first = of(&config());
        let scratch_dir = "/other".into();
        let same = VmConfig {
            name: "two".into(),
            disks: vec![disk("/two", DiskMode::Overlay { scratch_dir })],
            run_dir: "/run2".into(),
            listen: vec![7],
            ..config()
        };
        assert_eq!(of(&same), first);
        let net = NetConfig {
            mac: [2; 6],
            backend: NetBackend::Tap,
            addresses: Vec::new(),
            egress: None,
        };
        let others = [
            VmConfig {
                cpus: 2,
                ..config()
            },
            VmConfig {
                memory_mib: 512,
                ..config()
            },
            VmConfig {
                disks: Vec::new(),
                ..config()
            },
            VmConfig {
                disks: vec![disk("/one", DiskMode::ReadOnly)],
                ..config()
            },
            VmConfig {
                disks: vec![disk("/one", DiskMode::ReadWrite)],
                ..config()
            },
            VmConfig {
                net: Some(net),
                ..config()
            },
            VmConfig {
                extra_cmdline: Some("quiet".into()),
                ..config()
            },
            VmConfig {
                console_to_stderr: true,
                ..config()
            },
        ];
        let mut seen = vec![first];
        for other in &others {
            assert!(!seen.contains(&of(other)), "{other:?}");
            seen.push(of(other));
        }
        let delta = DiskMode::Delta {
            delta: "/d".into(),
            presence: "/p".into(),
        };
        let kept = VmConfig {
            disks: vec![disk("/one", delta)],
            ..config()
        };
        assert_eq!(of(&kept), of(&others[4]), "the guest sees no difference");
    }
}
