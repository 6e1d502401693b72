//! From what a shim is told to a running VM.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::agent::AGENT_PORT;

use super::config::ShimConfig;
use super::end::Stopping;
use super::error::StartError;
use super::holder::announce;
use super::listener::{self, Shared};
use super::message::Event;
use super::outcome::Ending;
use super::protocol::Status;
use super::record::Recorder;
use super::running::Shim;
use super::signals::stop_on_signals;
use super::workload::Workload;
use crate::dir::WorkspaceDir;
use crate::lock::Lock;
use crate::machine::MachineError;
use crate::machine::boot::{boot, configure};
use crate::machine::mediation;
use crate::machine::run_dir::RunDir;
use crate::machine::supervisor::Supervisor;
use crate::state::State;

/// The name of the socket in the run directory.
const SOCKET: &str = "shim";

/// Later than any VM lives.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Shim {
    /// Boots the VM, listens, and executes the workload.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: ShimConfig,
        recorder: &Recorder,
        lock: &Lock,
        sender: &Sender<Event>,
        ending: &Ending,
    ) -> Result<Shim, StartError> {
        let directory = WorkspaceDir::at(config.directory);
        if let Some(mediation) = config.mediation.as_ref().filter(|it| it.required) {
            mediation::probe(&mediation.target)?;
        }
        let run_dir = RunDir::create_for_daemon()?;
        let engine = config.vm.engine;
        let memory_mib = config.vm.memory_mib;
        let vm_error = |error| MachineError::of_vm(error, memory_mib);
        let supervisor = Supervisor::spawn(&config.supervisor, engine, true).map_err(vm_error)?;
        let connector = supervisor.connector().map_err(StartError::Listen)?;
        let status = Status {
            state: State::Starting,
            pid: std::process::id(),
            engine: engine.name().to_owned(),
            workload: false,
        };
        let shared = Arc::new(Shared::new(
            status,
            &supervisor,
            connector.clone(),
            sender.clone(),
            ending.clone(),
        ));
        if let Some(mediation) = config.mediation {
            let (shared, recorder) = (Arc::clone(&shared), recorder.clone());
            let target = mediation.target.clone();
            let report = move |lost| report_mediation(&shared, &recorder, &target, lost);
            supervisor.on_connection(mediation::acceptor(mediation.target, report));
        }
        stop_on_signals(Arc::clone(&shared)).map_err(StartError::Thread)?;
        let socket = run_dir.path().join(SOCKET);
        listener::serve(&socket, Arc::clone(&shared)).map_err(StartError::Listen)?;
        announce(lock, &socket).map_err(StartError::Record)?;
        let vm = microagent_proto::control::VmConfig {
            run_dir: run_dir.path().to_owned(),
            console_to_stderr: true,
            ..config.vm
        };
        boot(&supervisor, vm, Duration::from_secs(config.boot_timeout))?;
        configure(&supervisor, config.guest, memory_mib)?;
        let workload = match config.workload {
            Some(request) => {
                let stream = supervisor.connect(AGENT_PORT).map_err(vm_error)?;
                let output = directory.output();
                let started = Workload::start(stream, request, &output, sender.clone());
                Some(started.map_err(StartError::Output)?)
            }
            None => None,
        };
        {
            let mut status = shared.status();
            recorder
                .record(State::Running, None)
                .map_err(StartError::Record)?;
            status.state = State::Running;
            status.workload = workload.is_some();
        }
        let (controller, killer) = (supervisor.controller(), supervisor.killer());
        let sender = sender.clone();
        let vm = thread::Builder::new()
            .name("vm".into())
            .spawn(move || watch_vm(supervisor, &sender))
            .map_err(StartError::Thread)?;
        Ok(Shim {
            memory_mib,
            stop_signal: config.stop_signal,
            directory,
            shared,
            connector,
            controller,
            killer,
            vm: Some(vm),
            run_dir: Some(run_dir),
            workload,
            started_at: None,
            stopping: Stopping::default(),
            broken: None,
            stoppers: Vec::new(),
            waiting: Vec::new(),
        })
    }
}

/// Records that the mediation target was lost, or is reached again. The state stays as it is.
fn report_mediation(shared: &Shared, recorder: &Recorder, target: &str, lost: Option<String>) {
    let detail = match lost {
        Some(why) => format!("the mediation target {target} cannot be reached: {why}"),
        None => format!("the mediation target {target} is reached again"),
    };
    // Held meanwhile, so that no change of the state is recorded before it.
    let status = shared.status();
    if let Err(error) = recorder.record(status.state, Some(&detail)) {
        tracing::warn!(%error, "{detail}");
    }
}

/// Waits for the end of the VM.
fn watch_vm(supervisor: Supervisor, events: &Sender<Event>) -> Supervisor {
    let error = loop {
        if let Some(error) = supervisor.wait_for_end(Instant::now() + FAR) {
            break error;
        }
    };
    let _ = events.send(Event::VmEnded(error));
    supervisor
}
