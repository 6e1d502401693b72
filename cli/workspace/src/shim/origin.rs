//! How the VM of a workspace comes up: it boots, is restored from a snapshot of an idle VM, or goes on from
//! what was saved of a workspace.

use std::os::fd::OwnedFd;
use std::time::Duration;

use microagent_proto::control::VmConfig;

use super::config::Origin;
use super::error::StartError;
use crate::dir::WorkspaceDir;
use crate::machine;
use crate::machine::boot::Guest;
use crate::machine::supervisor::Supervisor;
use crate::machine::timeline::Arrival;
use crate::network::Prepared;
use crate::saved::Saved;
use crate::warm::attempt::{Attempt, boot, configure};

/// A VM and what belongs to it.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its supervisor, which waits.
    pub supervisor: &'a Supervisor,
    /// Its configuration.
    pub vm: VmConfig,
    /// The backend of its network interface.
    pub backend: Option<OwnedFd>,
    /// What its guest is told.
    pub guest: Guest,
    /// What what was saved of it depends on ([`crate::saved::Facts::key`]).
    pub key: Option<String>,
    /// The time limit of its boot.
    pub timeout: Duration,
}

/// A VM that runs.
#[derive(Debug, Default)]
pub struct Up {
    /// How it came up, for the event.
    pub detail: Option<String>,
    /// Its workload runs already.
    pub has_workload: bool,
    /// It may lack a snapshot.
    pub attempt: Option<Attempt>,
}

impl Machine<'_> {
    /// Starts the VM, and configures its guest.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn come_up(
        self,
        origin: Origin,
        directory: &WorkspaceDir,
        network: &mut Prepared,
    ) -> Result<Up, StartError> {
        let own = Saved::of(directory);
        if !matches!(&origin, Origin::Saved(path) if path == directory.path()) {
            // What was saved before does not match the disks any more.
            own.discard_vm().map_err(StartError::Saved)?;
        }
        match origin {
            Origin::Boot => self.boot(None, network),
            Origin::Idle(snapshots) => {
                let attempt = Attempt::open(snapshots)
                    .inspect_err(|error| tracing::warn!(%error, "the VM boots"));
                self.boot(attempt.ok(), network)
            }
            Origin::Saved(path) => {
                let up = self.go_on(&Saved::at(path), network)?;
                own.discard_vm().map_err(StartError::Saved)?;
                Ok(up)
            }
        }
    }

    fn boot(
        mut self,
        mut attempt: Option<Attempt>,
        network: &mut Prepared,
    ) -> Result<Up, StartError> {
        let (supervisor, memory_mib) = (self.supervisor, self.vm.memory_mib);
        let arrival = boot(
            attempt.as_mut(),
            supervisor,
            self.vm,
            self.backend,
            self.timeout,
        )?;
        let restored = matches!(arrival, Arrival::Restored(_));
        network.configure(&mut self.guest)?;
        let attempted = attempt.as_ref();
        configure(attempted, supervisor, arrival, self.guest, memory_mib)?;
        Ok(Up {
            detail: restored.then(|| "restored from a snapshot".to_owned()),
            has_workload: false,
            attempt,
        })
    }

    fn go_on(mut self, saved: &Saved, network: &mut Prepared) -> Result<Up, StartError> {
        let facts = saved.facts().map_err(StartError::Saved)?;
        if self.key.as_ref() != Some(&facts.key) {
            return Err(StartError::OtherMachine);
        }
        let (supervisor, memory_mib) = (self.supervisor, self.vm.memory_mib);
        self.vm.saved = Some(saved.vm());
        machine::boot::boot(supervisor, self.vm, self.backend, self.timeout)
            .map_err(StartError::NotRestored)?;
        network.configure(&mut self.guest)?;
        machine::boot::resume(supervisor, self.guest, memory_mib)
            .map_err(StartError::NotRestored)?;
        Ok(Up {
            detail: Some(format!("goes on from what was saved at {}", facts.saved_at)),
            has_workload: facts.workload,
            attempt: None,
        })
    }
}
