//! Whether a VM is restored from a snapshot, and whether one is taken for the next.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use microagent_cas::{Store, StoreError};
use microagent_pipeline::{Pipeline, Silent};
use microagent_proto::control::VmConfig;
use microagent_proto::error_chain;

use super::beside::{self, Request};
use super::snapshots::Snapshots;
use super::{Programs, Refused, find};
use crate::machine::MachineError;
use crate::machine::boot::{self, Guest};
use crate::machine::reaper;
use crate::machine::supervisor::{Supervisor, SupervisorError};
use crate::machine::timeline::Arrival;

/// One VM that may be restored from a snapshot.
#[derive(Debug)]
pub struct Attempt {
    pipeline: Pipeline,
    snapshots: Snapshots,
    /// The VM that was looked up.
    config: Option<VmConfig>,
    /// It has no snapshot, and one may be taken.
    missing: bool,
}

impl Attempt {
    /// With the snapshots of this pipeline, for VMs of these programs. `host_dir` has facts about the
    /// host, and exists.
    pub fn new(pipeline: &Pipeline, programs: Programs, host_dir: PathBuf) -> Attempt {
        let snapshots = Snapshots {
            store: pipeline.store().root().to_owned(),
            host_dir,
            programs,
        };
        Attempt {
            pipeline: pipeline.clone(),
            snapshots,
            config: None,
            missing: false,
        }
    }

    /// With these snapshots.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub fn open(snapshots: Snapshots) -> Result<Attempt, StoreError> {
        let store = Store::open(&snapshots.store)?;
        Ok(Attempt {
            pipeline: Pipeline::new(store, Arc::new(Silent)),
            snapshots,
            config: None,
            missing: false,
        })
    }

    /// Lets the VM be restored from its snapshot, if there is one.
    fn look_up(&mut self, config: &mut VmConfig) {
        let Snapshots {
            programs, host_dir, ..
        } = &self.snapshots;
        if let Some(why) = self.refused().why(programs, config) {
            tracing::info!("the VM boots, because its snapshot recently failed: {why}");
            return;
        }
        match find(&self.pipeline, programs, config, host_dir) {
            Ok(Some(snapshot)) => config.saved = Some(snapshot),
            Ok(None) => {
                tracing::info!("the VM boots, because there is no snapshot for it");
                self.missing = true;
            }
            Err(error) => tracing::info!(
                "the VM boots, because its snapshot cannot be looked up: {}",
                error_chain(&error)
            ),
        }
        self.config = Some(config.clone());
    }

    /// Remembers that the monitor could not use the snapshot.
    fn came_up(&self, arrival: &Arrival) {
        if let Arrival::Booted(ready) = arrival
            && let Some(why) = &ready.not_restored
        {
            tracing::info!("the VM boots, because its snapshot cannot be used: {why}");
            self.refuse(why);
        }
    }

    /// Remembers that a VM failed after it was restored.
    fn failed(&self, error: MachineError) -> MachineError {
        self.refuse(&format!("a VM failed: {}", error_chain(&error)));
        MachineError::NotResumed(Box::new(error))
    }

    /// Starts a process that takes the snapshot that the VM lacked, and outlives this one; see
    /// [`beside::start`]. Without effect where nothing would reap it.
    pub fn take_beside(self) -> Option<Child> {
        let config = self.config.filter(|_| self.missing)?;
        if !reaper::reaps_orphans() {
            return None;
        }
        let request = Request {
            snapshots: self.snapshots,
            config,
        };
        beside::start(&request)
            .inspect_err(|error| tracing::info!("no snapshot is taken: {error}"))
            .ok()
    }

    fn refused(&self) -> Refused {
        Refused::new(self.snapshots.host_dir.clone())
    }

    fn refuse(&self, why: &str) {
        let Some(config) = &self.config else {
            return;
        };
        if let Err(error) = self.refused().record(&self.snapshots.programs, config, why) {
            tracing::info!("cannot record that a snapshot failed: {error}");
        }
    }
}

/// Boots the VM or, if `attempt` finds a snapshot of it, restores it, and waits for its agent, at most for
/// `timeout`. `net` is the backend of its network interface, if it has one.
///
/// # Errors
/// [`MachineError`]; [`MachineError::NotResumed`] if it may boot.
pub fn boot(
    attempt: Option<&mut Attempt>,
    supervisor: &Supervisor,
    mut config: VmConfig,
    net: Option<OwnedFd>,
    timeout: Duration,
) -> Result<Arrival, MachineError> {
    let Some(attempt) = attempt else {
        return boot::boot(supervisor, config, net, timeout);
    };
    attempt.look_up(&mut config);
    let restoring = config.saved.is_some();
    let arrival = boot::boot(supervisor, config, net, timeout).map_err(|error| match error {
        // What it reports is not about the snapshot: then it boots.
        MachineError::Vm(SupervisorError::Failed { .. }) => error,
        error if restoring => attempt.failed(error),
        error => error,
    })?;
    attempt.came_up(&arrival);
    Ok(arrival)
}

/// Gives a VM of `memory_mib` MiB that has just come up its identity and disks.
///
/// # Errors
/// [`MachineError`]; [`MachineError::NotResumed`] if it was restored and may boot.
pub fn configure(
    attempt: Option<&Attempt>,
    supervisor: &Supervisor,
    arrival: Arrival,
    guest: Guest,
    memory_mib: u64,
) -> Result<(), MachineError> {
    let restored = matches!(arrival, Arrival::Restored(_));
    boot::configure(supervisor, arrival, guest, memory_mib).map_err(|error| {
        // Nothing of the image has run yet.
        match attempt.filter(|_| restored) {
            // What a guest that answers refuses, it may refuse after a boot, too.
            Some(_) if matches!(error, MachineError::Refused(_)) => {
                MachineError::NotResumed(Box::new(error))
            }
            Some(attempt) => attempt.failed(error),
            None => error,
        }
    })
}
