//! From what a shim is told to a running VM.

use std::collections::BTreeMap;
use std::io;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::agent::AGENT_PORT;
use microagent_proto::error_chain;

use super::capture::Capture;
use super::config::ShimConfig;
use super::end::Stopping;
use super::error::StartError;
use super::holder::announce;
use super::limits::Limits;
use super::listener::Shared;
use super::message::Event;
use super::origin::Machine;
use super::outcome::Ending;
use super::protocol::Status;
use super::reach::Reach;
use super::record::Recorder;
use super::running::Shim;
use super::savable::Savable;
use super::workload::Workload;
use crate::dir::WorkspaceDir;
use crate::lock::Lock;
use crate::machine::MachineError;
use crate::machine::mediation::{self, Mediator};
use crate::machine::run_dir::RunDir;
use crate::machine::services::Services;
use crate::machine::supervisor::{Streams, Supervisor};
use crate::network::Prepared;
use crate::network::keeper::Change;
use crate::network::publish::Bound;
use crate::network::refusals::Refusals;
use crate::state::State;
use crate::warm::attempt::Attempt;
use crate::warm::key;

/// How often to look whether the server of a required mediation can be reached.
const MEDIATION_INTERVAL: Duration = Duration::from_secs(10);

/// Later than any VM lives.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Shim {
    /// Boots the VM or restores it, listens, and executes the workload. `ports` lead to it; without them, those
    /// of its configuration are taken.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: ShimConfig,
        ports: Option<Vec<Bound>>,
        recorder: &Recorder,
        lock: &Lock,
        sender: &Sender<Event>,
        ending: &Ending,
    ) -> Result<Shim, StartError> {
        let directory = WorkspaceDir::at(config.directory);
        if let Some(mediation) = config.mediation.as_ref().filter(|it| it.required) {
            mediation::probe(&mediation.target)?;
        }
        let ports = ports.map_or_else(|| Bound::all(&config.forwards), Ok)?;
        let mut network = Prepared::open(config.network.as_ref(), ports)?;
        if let Some(obstacle) = network.obstacle() {
            let noted = recorder.note(State::Starting, &obstacle);
            noted.map_err(StartError::Record)?;
        }
        let run_dir = RunDir::create_for_daemon()?;
        let engine = config.vm.engine;
        let memory_mib = config.vm.memory_mib;
        let vm_error = |error| MachineError::of_vm(error, memory_mib);
        let supervisor = Supervisor::spawn(&config.supervisor, engine, true).map_err(vm_error)?;
        let connector = supervisor.connector().map_err(StartError::Listen)?;
        let streams = match config.ttl {
            Some(_) => Some(Arc::new(Streams::new().map_err(StartError::Listen)?)),
            None => None,
        };
        let sessions = match &streams {
            Some(streams) => connector.counted(Arc::clone(streams)),
            None => connector.clone(),
        };
        let status = Status {
            state: State::Starting,
            pid: std::process::id(),
            engine: engine.name().to_owned(),
            workload: false,
            addresses: Vec::new(),
            network_down: None,
            published: Vec::new(),
            refused_names: Vec::new(),
            refused_name_counts: BTreeMap::new(),
        };
        let shared = Arc::new(Shared::new(
            status,
            &supervisor,
            (connector.clone(), sessions.clone()),
            sender.clone(),
            ending.clone(),
            recorder.subscribers().clone(),
        ));
        let refusals = {
            let sender = sender.clone();
            // Recorded by the main thread: this one must not wait for a lock or a disk.
            Refusals::new(move |refused| drop(sender.send(Event::Refused(refused))))
        };
        let services = Services::default();
        let mut services = network.add_services(services, &supervisor, refusals.clone());
        if let Some(mediation) = config.mediation {
            let (shared, recorder) = (Arc::clone(&shared), recorder.clone());
            let target = mediation.target.clone();
            let watched = Arc::clone(&shared);
            let report = move |lost| report_mediation(&shared, &recorder, &target, lost);
            let mediator = Mediator::new(mediation.target, report);
            if mediation.required {
                // A guest that does not run needs no server, and a quarantined one has none.
                let wanted = move || watched.status().state == State::Running;
                let watching = mediator.watch(MEDIATION_INTERVAL, wanted);
                watching.map_err(StartError::Thread)?;
            }
            services = services.with(mediation.port, mediator.acceptor());
        }
        supervisor.on_connection(services.acceptor());
        let reach = Reach::open(run_dir, &shared).map_err(StartError::Listen)?;
        announce(lock, &reach.socket()).map_err(StartError::Record)?;
        let mut vm = microagent_proto::control::VmConfig {
            run_dir: reach.run_dir(),
            console_to_stderr: true,
            ..config.vm
        };
        let backend = network.add_device(&mut vm);
        let key = config
            .programs
            .map(|programs| key(&programs, &vm).to_string());
        let savable = Savable::new(vm.clone(), config.boot, key.clone());
        let machine = Machine {
            supervisor: &supervisor,
            vm,
            backend,
            guest: config.guest,
            key,
            timeout: Duration::from_secs(config.boot_timeout),
        };
        let up = machine.come_up(config.origin, &directory, &mut network)?;
        let report = {
            let (shared, recorder) = (Arc::clone(&shared), recorder.clone());
            move |change| report_network(&shared, &recorder, &change)
        };
        shared.set_network(network.serve(supervisor.controller(), &sessions, report)?);
        let request = config.workload.filter(|_| !up.has_workload);
        let workload = match request.is_some() || up.has_workload {
            true => {
                let stream = supervisor.connect(AGENT_PORT).map_err(vm_error)?;
                let output = directory.output();
                let started = Workload::start(stream, request, &output, sender.clone());
                Some(started.map_err(StartError::Output)?)
            }
            false => None,
        };
        {
            let mut status = shared.status();
            recorder
                .record(State::Running, up.detail.as_deref())
                .map_err(StartError::Record)?;
            status.state = State::Running;
            status.workload = workload.is_some();
        }
        if let Some(child) = up.attempt.and_then(Attempt::take_beside) {
            reap(child).map_err(StartError::Thread)?;
        }
        let idle_state = match config.suspend {
            true => State::Suspended,
            false => State::Stopped,
        };
        let sender = sender.clone();
        let vm = thread::Builder::new()
            .name("vm".into())
            .spawn(move || watch_vm(supervisor, &sender))
            .map_err(StartError::Thread)?;
        Ok(Shim {
            memory_mib,
            stop_signal: config.stop_signal,
            directory,
            savable,
            refusals,
            shared,
            capture: Capture::default(),
            vm: Some(vm),
            reach,
            workload,
            started_at: None,
            stopping: Stopping::default(),
            limits: Limits::new(
                seconds(config.timeout),
                (seconds(config.ttl).zip(streams))
                    .map(|(limit, streams)| (limit, streams, idle_state)),
                Instant::now(),
            ),
            broken: None,
            woken: false,
            stoppers: Vec::new(),
            waiting: Vec::new(),
        })
    }
}

fn seconds(limit: Option<u32>) -> Option<Duration> {
    limit.map(|limit| Duration::from_secs(limit.into()))
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

/// Records that the network was lost, or works again. The state stays as it is.
fn report_network(shared: &Shared, recorder: &Recorder, change: &Change) {
    let (detail, lost) = match change {
        Change::Down(error) => (format!("the network is down: {}", error_chain(error)), true),
        Change::Up => ("the network is up again".to_owned(), false),
    };
    // Held meanwhile, so that no change of the state is recorded before it.
    let mut status = shared.status();
    status.network_down = lost.then(|| detail.clone());
    if let Err(error) = recorder.record(status.state, Some(&detail)) {
        tracing::warn!(%error, "{detail}");
    }
}

/// Waits for the end of a process that is not heard of again.
fn reap(mut child: Child) -> io::Result<()> {
    let builder = thread::Builder::new().name("reaper".into());
    builder.spawn(move || drop(child.wait())).map(drop)
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
