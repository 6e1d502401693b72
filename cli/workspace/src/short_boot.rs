//! A VM of a workspace that does not run, for its files and its setup: it mounts the workspace's
//! disks, and so replays the journals of those that were not unmounted. It runs no workload, and
//! reaches nothing outside unless it is for the setup.
//!
//! The caller holds the [lock](crate::lock) of the workspace, and the VM ends with the caller. The
//! state of the workspace is the same afterwards.

use std::os::unix::net::UnixStream;

use microagent_cas::Store;
use microagent_proto::agent::AGENT_PORT;
use microagent_proto::control::VmConfig;

use crate::dir::WorkspaceDir;
use crate::machine::boot::{boot, boot_timeout, configure, shut_down};
use crate::machine::run_dir::RunDir;
use crate::machine::services::Services;
use crate::machine::supervisor::Supervisor;
use crate::machine::{MachineError, data_loss};
use crate::network::refusals::Refusals;
use crate::network::{Connected, NetworkError, Prepared};
use crate::spec::Spec;
use crate::start::{ManifestError, StartOptions, shim_config};

/// A short boot failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShortBootError {
    /// Nothing can be booted from the manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The VM failed.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Its network cannot be opened.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The host could not take what the guest wrote.
    #[error("{0}")]
    Lost(String),
    /// The guest did not shut down in time.
    #[error("the guest did not shut down")]
    Running,
}

/// A booted VM whose disks are mounted.
#[derive(Debug)]
pub struct ShortBoot {
    supervisor: Supervisor,
    memory_mib: u64,
    network: Connected,
    _run_dir: RunDir,
}

impl ShortBoot {
    /// Boots the workspace in `directory`, with its sockets in `run_dir`, and with its network if it
    /// is `connected`. With `verbose`, the console goes to standard error.
    ///
    /// # Errors
    /// [`ShortBootError`].
    pub fn start(
        directory: &WorkspaceDir,
        spec: &Spec,
        store: &Store,
        options: StartOptions,
        run_dir: RunDir,
        connected: bool,
        verbose: bool,
    ) -> Result<ShortBoot, ShortBootError> {
        let (engine, limit) = (
            options.engine,
            boot_timeout(options.engine, options.attempt),
        );
        let config = shim_config(directory, spec, store, options)?;
        let memory_mib = config.vm.memory_mib;
        let vm_error = |error| MachineError::of_vm(error, memory_mib);
        let plan = config.network.as_ref().filter(|_| connected);
        let mut network = Prepared::open(plan, Vec::new())?;
        let supervisor =
            Supervisor::spawn(&config.supervisor, engine, verbose).map_err(vm_error)?;
        let services = network.add_services(Services::default(), &supervisor, Refusals::default());
        supervisor.on_connection(services.acceptor());
        let mut vm = VmConfig {
            run_dir: run_dir.path().to_owned(),
            console_to_stderr: verbose,
            listen: Vec::new(),
            ..config.vm
        };
        let backend = network.add_device(&mut vm);
        let arrival = boot(&supervisor, vm, backend, limit)?;
        let mut guest = config.guest;
        network.configure(&mut guest)?;
        configure(&supervisor, arrival, guest, memory_mib)?;
        let connector = supervisor.connector().map_err(NetworkError::descriptors)?;
        let report = |change| tracing::warn!(?change, "the network of the setup");
        let network = network.serve(supervisor.controller(), &connector, report)?;
        Ok(ShortBoot {
            supervisor,
            memory_mib,
            network,
            _run_dir: run_dir,
        })
    }

    /// The supervisor of the VM.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// The guest's memory in MiB.
    pub fn memory_mib(&self) -> u64 {
        self.memory_mib
    }

    /// A stream to the agent, for one session.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn connect(&self) -> Result<UnixStream, MachineError> {
        let stream = self.supervisor.connect(AGENT_PORT);
        stream.map_err(|error| MachineError::of_vm(error, self.memory_mib))
    }

    /// Shuts the guest down, so that its file systems are unmounted.
    ///
    /// # Errors
    /// [`ShortBootError::Lost`] and [`ShortBootError::Running`].
    pub fn finish(self) -> Result<(), ShortBootError> {
        let halted = shut_down(&self.supervisor);
        self.network.end();
        let lost = data_loss(&self.supervisor.warnings());
        self.supervisor.end(halted);
        match (halted, lost) {
            (true, None) => Ok(()),
            (_, Some(lost)) => Err(ShortBootError::Lost(lost)),
            (false, None) => Err(ShortBootError::Running),
        }
    }
}
