//! The process that keeps the VM of a workspace. It outlives the command that starts it.
//!
//! It holds the workspace's [lock](crate::lock) from the start to the end, which is how others know
//! that the workspace lives; it starts the supervisor of the VM, runs the workload, keeps its output,
//! answers [requests](protocol), and records events. When it is killed, the kernel releases the lock
//! and the VM ends.
//!
//! ```text
//!  start ──config, lock──▶ shim ──control socket──▶ supervisor ──vsock──▶ agent
//!        ◀──── report ────  ▲  └───────────── workload's session ──────────▲
//!  exec, stop, … ──socket───┘ (streams to the guest are passed through)
//! ```
//!
//! [`run`] is the whole process; [`spawn`] starts one.

pub mod config;
mod end;
mod listener;
mod packet;
pub mod protocol;
mod record;
pub mod spawn;
mod workload;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::{AGENT_PORT, Exited};
use microagent_proto::error_chain;
use serde::{Deserialize, Serialize};

use self::config::{ShimConfig, Started};
use self::end::{Next, Stopping};
use self::listener::Shared;
pub(crate) use self::packet::{receive, send};
use self::protocol::{Reply, Status};
use self::record::Recorder;
use self::workload::Workload;
use crate::dir::WorkspaceDir;
use crate::event::now;
use crate::lock::Lock;
use crate::log::BoundedLog;
use crate::machine::boot::{boot, configure};
use crate::machine::run_dir::{RunDir, RunDirError};
use crate::machine::session::{self, SessionError};
use crate::machine::supervisor::{Connector, Killer, Supervisor, SupervisorError};
use crate::machine::{MachineError, data_loss};
use crate::result::WorkloadResult;
use crate::state::State;

/// How much of the guest's console is kept, in bytes.
const CONSOLE_LIMIT: u64 = 1 << 20;

/// How long what was written to the console may take to be kept.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(1);

/// The name of the socket in the run directory.
const SOCKET: &str = "shim";

/// Later than any VM lives.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What the holder of a lock writes into its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The socket on which it listens.
    pub socket: std::path::PathBuf,
}

/// What the main thread waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// The workload was executed.
    WorkloadStarted,
    /// The workload has ended, or its session.
    WorkloadEnded(Result<Exited, SessionError>),
    /// The VM has ended.
    VmEnded(SupervisorError),
    /// A client wants the guest to be shut down.
    Stop {
        force: bool,
        reason: Option<String>,
        reply: Sender<Reply>,
    },
    /// A client wants the VM to be killed.
    Kill {
        reason: Option<String>,
        reply: Sender<Reply>,
    },
    /// A client wants to know the end.
    Wait { reply: Sender<Reply> },
}

impl Event {
    /// Who waits for the reply to it.
    fn into_reply(self) -> Option<Sender<Reply>> {
        match self {
            Event::Stop { reply, .. } | Event::Kill { reply, .. } | Event::Wait { reply } => {
                Some(reply)
            }
            Event::WorkloadStarted | Event::WorkloadEnded(_) | Event::VmEnded(_) => None,
        }
    }
}

/// A workspace could not be started.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot listen for clients")]
    Listen(#[source] io::Error),
    #[error("cannot keep the output of the guest")]
    Output(#[source] io::Error),
    #[error("cannot record what happens")]
    Record(#[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl StartError {
    fn report(&self) -> Started {
        let (kind, remediation) = match self {
            StartError::RunDir(error) => (error.kind(), error.remediation()),
            StartError::Machine(error) => (error.kind(), error.remediation()),
            StartError::Listen(_)
            | StartError::Output(_)
            | StartError::Record(_)
            | StartError::Thread(_) => (ErrorKind::Host, None),
        };
        Started::Failed {
            kind: kind.as_str().to_owned(),
            message: error_chain(self),
            remediation,
        }
    }
}

/// Keeps the workspace that `config` describes until it ends, and calls `report` when it is ready or
/// could not be started. For a process that does nothing else.
pub fn run(config: ShimConfig, lock: Lock, report: impl FnOnce(Started)) {
    let recorder = Recorder::new(&config);
    let directory = WorkspaceDir::at(config.directory.clone());
    directory.remove_leftovers();
    // That of the last time.
    let _ = fs::remove_file(directory.result());
    let (sender, events) = mpsc::channel();
    let ending = Ending::default();
    let mut report = Some(report);
    let mut say = |started: Started| {
        if let Some(report) = report.take() {
            report(started);
        }
    };
    let started = recorder
        .record(State::Starting, None)
        .map_err(StartError::Record)
        .and_then(|()| {
            let console = keep_console(&directory.console()).map_err(StartError::Output)?;
            let shim = Shim::start(config, &recorder, &lock, &sender, &ending)?;
            Ok((shim, console))
        });
    match started {
        Ok((mut shim, console)) => {
            let mut end = shim.watch(&events, &recorder, &mut say);
            let (mut replies, lost) = shim.finish();
            if let Some(lost) = lost {
                end.state = State::Failed;
                end.detail = Some(lost);
            }
            console.close();
            if let Err(error) = recorder.record(end.state, end.detail.as_deref()) {
                tracing::error!(%error, "the end of the workspace cannot be recorded");
            }
            // Whoever is told of the end may start the workspace again.
            drop(lock);
            say(end.report());
            replies.extend(events.try_iter().filter_map(Event::into_reply));
            for reply in replies {
                let _ = reply.send(Reply::Ended { state: end.state });
            }
        }
        Err(error) => {
            // A client may have ended it meanwhile.
            let decided = ending.take();
            let (state, detail) = decided.unwrap_or((State::Failed, Some(error_chain(&error))));
            let _ = recorder.record(state, detail.as_deref());
            drop(lock);
            say(match state {
                State::Failed => error.report(),
                _ => ended_early(),
            });
            for reply in events.try_iter().filter_map(Event::into_reply) {
                let _ = reply.send(Reply::Ended { state });
            }
        }
    }
}

/// How a workspace ended.
#[derive(Debug)]
struct End {
    state: State,
    detail: Option<String>,
    /// Why, if it was never ready.
    start: Option<Started>,
}

impl End {
    /// The report of a workspace that was never ready.
    fn report(&self) -> Started {
        match (&self.start, self.state, &self.detail) {
            (Some(start), ..) => start.clone(),
            (None, State::Failed, Some(detail)) => Started::Failed {
                kind: ErrorKind::Guest.as_str().to_owned(),
                message: detail.clone(),
                remediation: None,
            },
            (None, ..) => ended_early(),
        }
    }
}

/// The report of a workspace that was ended before it was ready.
fn ended_early() -> Started {
    Started::Failed {
        kind: ErrorKind::Conflict.as_str().to_owned(),
        message: "the workspace was stopped while it started".to_owned(),
        remediation: None,
    }
}

/// A state after the end, and why.
type Outcome = (State, Option<String>);

/// How a client has ended a workspace that still starts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending(Arc<Mutex<Option<Outcome>>>);

impl Ending {
    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first decision counts.
    fn decide(&self, state: State, reason: Option<String>) {
        self.lock().get_or_insert((state, reason));
    }

    fn take(&self) -> Option<Outcome> {
        self.lock().take()
    }
}

/// A running VM and its workload.
struct Shim {
    memory_mib: u64,
    stop_signal: i32,
    directory: WorkspaceDir,
    shared: Arc<Shared>,
    connector: Connector,
    killer: Killer,
    vm: Option<JoinHandle<Supervisor>>,
    run_dir: Option<RunDir>,
    workload: Option<Workload>,
    started_at: Option<String>,
    stopping: Stopping,
    /// Why the session of the workload broke.
    broken: Option<String>,
    /// Who asked for the end.
    stoppers: Vec<Sender<Reply>>,
    /// Who only waits for it.
    waiting: Vec<Sender<Reply>>,
}

impl Shim {
    /// Boots the VM, listens, and executes the workload.
    fn start(
        config: ShimConfig,
        recorder: &Recorder,
        lock: &Lock,
        sender: &Sender<Event>,
        ending: &Ending,
    ) -> Result<Shim, StartError> {
        let directory = WorkspaceDir::at(config.directory);
        let run_dir = RunDir::create_for_daemon()?;
        let engine = config.vm.engine;
        let memory_mib = config.vm.memory_mib;
        let vm_error = |error| MachineError::of_vm(error, memory_mib);
        let supervisor = Supervisor::spawn(&config.supervisor, engine, true).map_err(vm_error)?;
        let connector = supervisor.connector().map_err(StartError::Listen)?;
        let killer = supervisor.killer();
        let status = Status {
            state: State::Starting,
            pid: std::process::id(),
            engine: engine.name().to_owned(),
            workload: false,
        };
        let shared = Arc::new(Shared::new(
            status,
            connector.clone(),
            killer.clone(),
            sender.clone(),
            ending.clone(),
        ));
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
        recorder
            .record(State::Running, None)
            .map_err(StartError::Record)?;
        {
            let mut status = shared.status();
            status.state = State::Running;
            status.workload = workload.is_some();
        }
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

    /// Handles events until the VM has ended.
    fn watch(
        &mut self,
        events: &Receiver<Event>,
        recorder: &Recorder,
        say: &mut impl FnMut(Started),
    ) -> End {
        let mut start = None;
        // Decided while the VM booted.
        if let Some((_, reason)) = self.shared.ending().take() {
            self.stopping.kill_as(reason);
            self.kill();
        } else if self.workload.is_none() {
            say(Started::Ready);
        }
        loop {
            let event = match self.stopping.deadline() {
                None => events.recv().ok(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    events.recv_timeout(left).ok()
                }
            };
            match event {
                None => self.deadline_passed(recorder),
                Some(Event::WorkloadStarted) => {
                    self.started_at = Some(now());
                    say(Started::Ready);
                }
                Some(Event::WorkloadEnded(end)) => {
                    if let Some(failed) = self.workload_ended(end, recorder) {
                        start = Some(failed);
                    }
                }
                Some(Event::Stop {
                    force,
                    reason,
                    reply,
                }) => {
                    self.stoppers.push(reply);
                    let state = if force { State::Stopped } else { State::Halted };
                    self.stop(state, force, reason, recorder);
                }
                Some(Event::Kill { reason, reply }) => {
                    self.stoppers.push(reply);
                    self.stopping.kill_as(reason);
                    self.kill();
                }
                Some(Event::Wait { reply }) => self.waiting.push(reply),
                Some(Event::VmEnded(error)) => {
                    let clean = error.is_power_off();
                    let broken = self.broken.take().filter(|_| clean);
                    let why = MachineError::of_vm(error, self.memory_mib);
                    let why = || broken.unwrap_or_else(|| error_chain(&why));
                    let (state, detail) = self.stopping.outcome(clean, why);
                    return End {
                        state,
                        detail,
                        start,
                    };
                }
            }
        }
    }

    /// Records the end of the workload and shuts the guest down. Returns the report if the workload
    /// could not be executed.
    fn workload_ended(
        &mut self,
        end: Result<Exited, SessionError>,
        recorder: &Recorder,
    ) -> Option<Started> {
        self.workload = None;
        self.shared.status().workload = false;
        let exited = match end {
            Ok(exited) => exited,
            Err(SessionError::Refused(failure)) => {
                let error = StartError::Machine(MachineError::Refused(failure));
                self.stop(State::Failed, true, Some(error_chain(&error)), recorder);
                return Some(error.report());
            }
            Err(error) => {
                // Usually the VM has ended, and its supervisor will say why.
                self.broken = Some(error_chain(&error));
                self.stopping.force = true;
                if matches!(self.stopping.next(), Next::Nothing | Next::Workload) {
                    self.shut_down();
                }
                return None;
            }
        };
        let started_at = self.started_at.clone().unwrap_or_else(now);
        let result = WorkloadResult::new(started_at, now(), exited);
        if let Err(error) = result.write(&self.directory.result()) {
            tracing::error!(%error, "the result of the workload cannot be written");
        }
        let (state, detail) = match (exited.code, exited.signal) {
            (Some(0), _) => (State::Stopped, "the workload ended".to_owned()),
            (Some(code), _) => (
                State::Failed,
                format!("the workload ended with exit code {code}"),
            ),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                (
                    State::Failed,
                    format!("the workload was killed by signal {signal}"),
                )
            }
        };
        match self.stopping.next() {
            Next::Nothing => self.stop(state, true, Some(detail), recorder),
            Next::Workload => self.shut_down(),
            Next::Shutdown | Next::Kill => {}
        }
        None
    }

    /// Begins to end the workspace in `state`; what began earlier stays.
    fn stop(&mut self, state: State, force: bool, reason: Option<String>, recorder: &Recorder) {
        let begun = self.stopping.next() != Next::Nothing;
        self.stopping.end_as(state, reason);
        self.stopping.force |= force;
        if begun {
            return;
        }
        self.shared.status().state = State::Stopping;
        if let Err(error) = recorder.record(State::Stopping, None) {
            tracing::error!(%error, "the event cannot be recorded");
        }
        match &mut self.workload {
            Some(workload) => {
                workload.signal(self.stop_signal);
                self.stopping.wait_for_workload();
            }
            None => self.shut_down(),
        }
    }

    /// The guest did not do in time what it was asked for.
    fn deadline_passed(&mut self, recorder: &Recorder) {
        match self.stopping.next() {
            Next::Workload => self.shut_down(),
            Next::Shutdown if self.stopping.force => {
                self.stopping.kill_as(None);
                self.kill();
            }
            Next::Shutdown => {
                // `halt` never kills a VM.
                self.stopping.give_up();
                self.shared.status().state = State::Running;
                let message = "the guest does not shut down".to_owned();
                let _ = recorder.record(State::Running, Some(&message));
                for reply in self.stoppers.drain(..) {
                    let message = message.clone();
                    let _ = reply.send(Reply::Refused { message });
                }
            }
            Next::Nothing | Next::Kill => self.kill(),
        }
    }

    /// Asks the agent to shut the guest down.
    fn shut_down(&mut self) {
        self.stopping.wait_for_shutdown();
        let connector = self.connector.clone();
        let asking = thread::Builder::new()
            .name("shutdown".into())
            .spawn(move || {
                let asked = connector
                    .open(AGENT_PORT)
                    .map_err(|error| error.to_string())
                    .and_then(|stream| session::shut_down(stream).map_err(|e| error_chain(&e)));
                if let Err(error) = asked {
                    tracing::warn!(error, "the guest cannot be shut down");
                }
            });
        if let Err(error) = asking {
            tracing::error!(%error, "cannot start a thread");
            self.kill();
        }
    }

    fn kill(&mut self) {
        self.stopping.wait_for_kill();
        self.killer.kill();
    }

    /// Releases everything; returns who waits for the end, and which data of the guest was lost.
    fn finish(mut self) -> (Vec<Sender<Reply>>, Option<String>) {
        let mut lost = None;
        if let Some(Ok(supervisor)) = self.vm.take().map(JoinHandle::join) {
            lost = data_loss(&supervisor.warnings());
            supervisor.end(true);
        }
        drop(self.run_dir.take());
        self.stoppers.append(&mut self.waiting);
        (self.stoppers, lost)
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

/// Says in the file of the lock where this process listens.
fn announce(lock: &Lock, socket: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let holder = Holder {
        pid: std::process::id(),
        socket: socket.to_owned(),
    };
    let mut text = serde_json::to_vec(&holder)?;
    text.push(b'\n');
    let file = lock.file();
    file.set_len(0)?;
    file.write_all_at(&text, 0)
}

/// The console of the guest, which is kept by a thread.
#[derive(Debug)]
struct Console(Receiver<()>);

impl Console {
    /// Waits until all that was written is kept. The supervisor must have ended.
    fn close(self) {
        // The last descriptor of the pipe's end in this process.
        let null = File::options().write(true).open("/dev/null");
        if null.is_ok_and(|null| rustix::stdio::dup2_stderr(null).is_ok()) {
            let _ = self.0.recv_timeout(CONSOLE_TIMEOUT);
        }
    }
}

/// Sends standard error, which the supervisor inherits and writes the console to, to the file.
fn keep_console(path: &Path) -> io::Result<Console> {
    let (mut reader, writer) = io::pipe()?;
    let mut log = BoundedLog::open(path, CONSOLE_LIMIT)?;
    rustix::stdio::dup2_stderr(writer)?;
    let (done, ended) = mpsc::channel();
    thread::Builder::new()
        .name("console".into())
        .spawn(move || {
            let mut chunk = vec![0; 16 << 10];
            // A console that cannot be kept must not stop the guest.
            while let Ok(length @ 1..) = reader.read(&mut chunk) {
                let _ = log.append(&chunk[..length]);
            }
            let _ = done.send(());
        })?;
    Ok(Console(ended))
}

/// Makes SIGTERM and SIGINT end the workspace as `stop` does.
fn stop_on_signals(shared: Arc<Shared>) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for _ in signals.forever() {
                let reason = "the process that keeps the workspace was terminated";
                shared.stop(Some(reason.to_owned()));
            }
        })
        .map(drop)
}
