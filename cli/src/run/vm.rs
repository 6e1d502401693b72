//! From a booted kernel to the end of the command.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::{
    AGENT_PORT, Configure, Disk, Exec, Exited, Failure as AgentFailure, FailureKind, Root,
};
use microagent_proto::control::VmConfig;
use rustix::rand::{GetRandomFlags, getrandom};

use super::deadline::Deadline;
use super::phases::{Phases, timed};
use super::sink::{Captured, CommandSink, SetupSink};
use crate::failure::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure};
use crate::output::{Output, stdout_error};
use crate::session::{self, SessionError};
use crate::supervisor::{Supervisor, SupervisorError};
use crate::termination::Termination;
use crate::timeline::{Mark, Timeline};

/// How long a guest may take from its first instruction to the agent's report. A kernel that
/// boots on an emulated CPU of a busy host takes a few seconds; one that has hung never comes.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a guest may take to power off by itself: all that it has written must reach the host's
/// disk first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of fresh randomness for a guest.
const ENTROPY: usize = 32;

/// What a VM is for.
#[derive(Debug)]
pub struct Task {
    /// The VM.
    pub config: VmConfig,
    /// Its host name.
    pub hostname: String,
    /// Disks besides the root.
    pub disks: Vec<Disk>,
    /// Shell commands to run first: as typed, and as requests.
    pub setup: Vec<(String, Exec)>,
    /// The command.
    pub command: Exec,
    /// Seconds from now to the end of the command.
    pub timeout: Option<u64>,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    /// The end.
    pub status: Status,
    /// When the command was started.
    pub started_at: Option<SystemTime>,
    /// When all this ended.
    pub completed_at: SystemTime,
    /// What the command wrote, with `--json`.
    pub captured: Captured,
}

/// The end of a command.
#[derive(Debug)]
pub enum Status {
    /// It ended by itself or by a signal.
    Exited(Exited),
    /// Nobody reads its output any more.
    StdoutClosed,
    /// Something failed.
    Failed(Failure),
}

/// Boots the VM and runs what it is for.
pub fn run(
    supervisor: &Supervisor,
    task: Task,
    output: Output,
    phases: &mut Phases,
    timeline: &mut Timeline,
    termination: &Termination,
) -> Outcome {
    let deadline = Deadline::start(task.timeout, supervisor.killer(), termination.clone());
    let mut sink = match CommandSink::new(output) {
        Ok(sink) => sink,
        Err(error) => return Outcome::failed(stdout_error(&error)),
    };
    let outcome = run_steps(supervisor, task, output, phases, timeline, &mut sink);
    sink.record_into(timeline);
    let status = match (outcome, deadline.fired()) {
        (Ok(exited), _) => Status::Exited(exited),
        (Err(_), Some(timed_out)) => Status::Failed(timed_out),
        (Err(Stop::StdoutClosed), None) => Status::StdoutClosed,
        (Err(Stop::Failed(failure)), None) => Status::Failed(failure),
    };
    Outcome {
        status,
        started_at: sink.started_at,
        completed_at: SystemTime::now(),
        captured: sink.into_captured(),
    }
}

impl Outcome {
    fn failed(failure: Failure) -> Outcome {
        Outcome {
            status: Status::Failed(failure),
            started_at: None,
            completed_at: SystemTime::now(),
            captured: Captured::default(),
        }
    }
}

/// Why the steps stopped.
enum Stop {
    Failed(Failure),
    StdoutClosed,
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Failed(error.into())
    }
}

fn run_steps(
    supervisor: &Supervisor,
    task: Task,
    output: Output,
    phases: &mut Phases,
    timeline: &mut Timeline,
    sink: &mut CommandSink,
) -> Result<Exited, Stop> {
    timed(&mut phases.boot, || {
        supervisor.start(task.config)?;
        let ready = supervisor.wait_until_ready(BOOT_TIMEOUT)?;
        timeline.record_boot(&ready);
        Ok::<_, SupervisorError>(())
    })?;
    timed(&mut phases.configure, || {
        configure(supervisor, &task.hostname, task.disks)
    })?;
    timeline.record_now(Mark::Root);
    if !task.setup.is_empty() {
        timed(&mut phases.setup, || set_up(supervisor, task.setup, output))?;
    }
    timed(&mut phases.exec, || {
        let stream = supervisor.connect(AGENT_PORT)?;
        session::exec(stream, task.command, sink).map_err(|error| match error {
            SessionError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Stop::StdoutClosed
            }
            SessionError::Output(error) => Stop::Failed(stdout_error(&error)),
            SessionError::Refused(failure) => Stop::Failed(exec_failure(&failure)),
            broken => Stop::Failed(session_failure(supervisor, broken)),
        })
    })
}

fn configure(supervisor: &Supervisor, hostname: &str, disks: Vec<Disk>) -> Result<(), Failure> {
    let mut entropy = vec![0; ENTROPY];
    getrandom(&mut entropy[..], GetRandomFlags::empty())
        .map_err(|error| Failure::caused(ErrorKind::Host, &error))?;
    let stream = supervisor.connect(AGENT_PORT)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let request = Configure {
        unix_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        entropy,
        hostname: hostname.to_owned(),
        root: Root {
            device: "vda".into(),
            fs_type: "ext4".into(),
            read_only: false,
        },
        disks,
    };
    session::configure(stream, request).map_err(|error| match error {
        SessionError::Refused(failure) => Failure::new(ErrorKind::Guest, failure.message),
        broken => session_failure(supervisor, broken),
    })
}

fn set_up(
    supervisor: &Supervisor,
    commands: Vec<(String, Exec)>,
    output: Output,
) -> Result<(), Failure> {
    let count = commands.len();
    for (number, (typed, request)) in commands.into_iter().enumerate() {
        let name = match count {
            1 => format!("the setup command {typed:?}"),
            _ => format!("setup command {} of {count} {typed:?}", number + 1),
        };
        let mut sink = SetupSink::new(output);
        let stream = supervisor.connect(AGENT_PORT)?;
        let exited = session::exec(stream, request, &mut sink).map_err(|error| match error {
            SessionError::Refused(failure) => {
                let why = exec_failure(&failure);
                Failure::new(why.kind, format!("{name}: {}", why.message))
                    .maybe_remediation(why.remediation)
            }
            broken => session_failure(supervisor, broken),
        })?;
        let how = match (exited.code, exited.signal) {
            (Some(0), _) => continue,
            (Some(code), _) => format!("{name} failed with exit code {code}"),
            (None, signal) => format!("{name} was killed by signal {}", signal.unwrap_or_default()),
        };
        let failure = Failure::new(ErrorKind::Guest, how);
        return Err(match sink.last_hidden_line() {
            Some(line) => failure.remediation(format!("it said: {line}")),
            None => failure,
        });
    }
    Ok(())
}

/// A command that the agent could not start.
fn exec_failure(failure: &AgentFailure) -> Failure {
    match failure.kind {
        FailureKind::NotFound => {
            let said =
                Failure::new(ErrorKind::NotFound, failure.message.clone()).exits(EXIT_NOT_FOUND);
            if failure.message.ends_with("/bin/sh") {
                return said.remediation(
                    "--exec and --setup need a shell; name a program of the image instead: \
                     microagent run REF PROGRAM ARG…",
                );
            }
            said
        }
        FailureKind::NotExecutable => {
            Failure::new(ErrorKind::Guest, failure.message.clone()).exits(EXIT_NOT_EXECUTABLE)
        }
        _ => Failure::new(ErrorKind::Guest, failure.message.clone()),
    }
}

/// Why a session broke: the news of the VM's end, if there are any.
fn session_failure(supervisor: &Supervisor, error: SessionError) -> Failure {
    match supervisor.exit_reason() {
        Some(end) => end.into(),
        None => Failure::caused(ErrorKind::Guest, &error),
    }
}

/// Lets the guest power off by itself, so that its disk is clean; whether it did.
pub fn shut_down(supervisor: &Supervisor) -> bool {
    supervisor
        .connect(AGENT_PORT)
        .ok()
        .and_then(|stream| session::shut_down(stream).ok())
        .is_some()
        && supervisor.wait_until_stopped(SHUTDOWN_TIMEOUT).is_some()
}
