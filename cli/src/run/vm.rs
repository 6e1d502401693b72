//! Boots a VM, configures it, and runs its commands.

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
use crate::timeline::{Mark, Timeline};

/// Time limit from the guest's first instruction to the agent's report. On an emulated CPU of a
/// busy host a boot takes a few seconds.
const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// Time limit for a clean shutdown: all dirty data must reach the host's disk first.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Entropy for the guest, in bytes.
const ENTROPY: usize = 32;

/// A VM and the commands to run in it.
#[derive(Debug)]
pub struct Task {
    /// Configuration of the VM.
    pub config: VmConfig,
    /// Host name of the guest.
    pub hostname: String,
    /// Additional disks.
    pub disks: Vec<Disk>,
    /// Serial number of the disk with the kernel's modules, if it has any.
    pub modules: Option<String>,
    /// Shell commands to run first: the command line, and the request.
    pub setup: Vec<(String, Exec)>,
    /// The command.
    pub command: Exec,
}

/// The outcome of a [`Task`].
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// When the command was started, if it was.
    pub started_at: Option<SystemTime>,
    /// When the task ended.
    pub completed_at: SystemTime,
    /// The command's output, captured with `--json`.
    pub captured: Captured,
}

/// How a task ended.
#[derive(Debug)]
pub enum Status {
    /// The command exited or was killed by a signal.
    Exited(Exited),
    /// The reader of standard output closed it.
    StdoutClosed,
    /// A step failed, or the timeout expired.
    Failed(Failure),
}

/// Boots the VM and runs `task` within `deadline`.
pub fn run(
    supervisor: &Supervisor,
    task: Task,
    output: Output,
    phases: &mut Phases,
    timeline: &mut Timeline,
    deadline: &Deadline,
) -> Outcome {
    let mut sink = match CommandSink::new(output) {
        Ok(sink) => sink,
        Err(error) => return Outcome::failed(stdout_error(&error)),
    };
    let outcome = run_steps(supervisor, task, output, phases, timeline, &mut sink);
    deadline.command_ended();
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

/// Why a step failed.
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
    let memory_mib = task.config.memory_mib;
    timed(&mut phases.boot, || {
        supervisor.start(task.config)?;
        let ready = supervisor.wait_until_ready(BOOT_TIMEOUT)?;
        timeline.record_boot(&ready);
        Ok::<_, SupervisorError>(())
    })
    .map_err(|error| vm_failure(error, memory_mib))?;
    timed(&mut phases.configure, || {
        let disks = (task.disks, task.modules);
        configure(supervisor, &task.hostname, disks, memory_mib)
    })?;
    timeline.record_now(Mark::Root);
    if !task.setup.is_empty() {
        timed(&mut phases.setup, || {
            set_up(supervisor, task.setup, output, memory_mib)
        })?;
    }
    timed(&mut phases.exec, || {
        let stream = supervisor.connect(AGENT_PORT)?;
        session::exec(stream, task.command, sink).map_err(|error| match error {
            SessionError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Stop::StdoutClosed
            }
            SessionError::Output(error) => Stop::Failed(stdout_error(&error)),
            SessionError::Refused(failure) => Stop::Failed(exec_failure(&failure)),
            error => Stop::Failed(session_failure(supervisor, error, memory_mib)),
        })
    })
}

fn configure(
    supervisor: &Supervisor,
    hostname: &str,
    (disks, modules): (Vec<Disk>, Option<String>),
    memory_mib: u64,
) -> Result<(), Failure> {
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
        modules,
    };
    session::configure(stream, request).map_err(|error| match error {
        SessionError::Refused(failure) => Failure::new(ErrorKind::Guest, failure.message),
        error => session_failure(supervisor, error, memory_mib),
    })
}

fn set_up(
    supervisor: &Supervisor,
    commands: Vec<(String, Exec)>,
    output: Output,
    memory_mib: u64,
) -> Result<(), Failure> {
    let count = commands.len();
    for (number, (command_line, request)) in commands.into_iter().enumerate() {
        let name = match count {
            1 => format!("setup command {command_line:?}"),
            _ => format!("setup command {} of {count} {command_line:?}", number + 1),
        };
        let mut sink = SetupSink::new(output);
        let stream = supervisor.connect(AGENT_PORT)?;
        let exited = session::exec(stream, request, &mut sink).map_err(|error| match error {
            SessionError::Refused(failure) => {
                let why = exec_failure(&failure);
                Failure::new(why.kind, format!("{name}: {}", why.message))
                    .maybe_remediation(why.remediation)
            }
            error => session_failure(supervisor, error, memory_mib),
        })?;
        let how = match (exited.code, exited.signal) {
            (Some(0), _) => continue,
            (Some(code), _) => format!("{name} failed with exit code {code}"),
            (None, signal) => format!("{name} was killed by signal {}", signal.unwrap_or_default()),
        };
        if exited.out_of_memory {
            let why = out_of_memory(memory_mib);
            let message = format!("{how}: {}", why.message);
            return Err(Failure { message, ..why });
        }
        let failure = Failure::new(ErrorKind::Guest, how);
        return Err(match sink.last_hidden_line() {
            Some(line) => failure.remediation(format!("its last output: {line}")),
            None => failure,
        });
    }
    Ok(())
}

/// The failure for a command that the agent could not start.
fn exec_failure(failure: &AgentFailure) -> Failure {
    match failure.kind {
        FailureKind::NotFound => {
            let failed =
                Failure::new(ErrorKind::NotFound, failure.message.clone()).exits(EXIT_NOT_FOUND);
            if failure.message.ends_with("/bin/sh") {
                return failed.remediation(
                    "--exec and --setup need a shell in the image; run a program directly instead: \
                     microagent run REF PROGRAM ARG…",
                );
            }
            failed
        }
        FailureKind::NotExecutable => {
            Failure::new(ErrorKind::Guest, failure.message.clone()).exits(EXIT_NOT_EXECUTABLE)
        }
        _ => Failure::new(ErrorKind::Guest, failure.message.clone()),
    }
}

/// The failure for a broken session: the reason of the VM's end, if the supervisor reports one.
fn session_failure(supervisor: &Supervisor, error: SessionError, memory_mib: u64) -> Failure {
    match (error, supervisor.exit_reason()) {
        (SessionError::Version(mismatch), _) => {
            Failure::new(ErrorKind::Internal, mismatch.to_string())
                .remediation(mismatch.remediation())
        }
        (_, Some(end)) => vm_failure(end, memory_mib),
        (error, None) => Failure::caused(ErrorKind::Guest, &error),
    }
}

/// The failure for a VM that has ended or does not start.
fn vm_failure(error: SupervisorError, memory_mib: u64) -> Failure {
    match error.is_out_of_memory() {
        true => out_of_memory(memory_mib),
        false => error.into(),
    }
}

/// The failure of a guest whose memory was exhausted.
pub fn out_of_memory(memory_mib: u64) -> Failure {
    Failure::new(
        ErrorKind::Guest,
        format!("the guest ran out of memory ({memory_mib} MiB)"),
    )
    .remediation(format!("use more, as in --memory {}", 2 * memory_mib))
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
