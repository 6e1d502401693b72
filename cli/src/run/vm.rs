//! Boots a VM, configures it, and runs its commands.

use std::io;
use std::time::{Duration, SystemTime};

use microagent_pipeline::ErrorKind;
use microagent_proto::agent::{
    AGENT_PORT, Exec, Exited, Failure as AgentFailure, FailureKind, Output as CommandOutput,
};
use microagent_proto::control::VmConfig;
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::boot::Guest;
use microagent_workspace::machine::session::{self, SessionError};
use microagent_workspace::machine::supervisor::Supervisor;
use microagent_workspace::machine::timeline::{Mark, Timeline};
use microagent_workspace::warm::attempt::{Attempt, boot, configure};

use super::deadline::Deadline;
use super::network::RunNetwork;
use super::outputs::Outputs;
use super::phases::{Phases, timed};
use super::sink::{Captured, CommandSink, SetupSink};
use crate::document::OutputDocument;
use crate::failure::{
    EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_RUN_FAILED, EXIT_SIGNAL_BASE, EXIT_TIMED_OUT, Failure,
};
use crate::output::{Output, stdout_error};

/// A VM and the commands to run in it.
#[derive(Debug)]
pub struct Task {
    /// Configuration of the VM.
    pub config: VmConfig,
    /// The time limit of the boot.
    pub boot_timeout: Duration,
    /// What the guest is told after its boot.
    pub guest: Guest,
    /// How it is connected.
    pub network: RunNetwork,
    /// Shell commands to run first: the command line, and the request.
    pub setup: Vec<(String, Exec)>,
    /// The command.
    pub command: Exec,
    /// What is copied out of the guest then.
    pub outputs: Outputs,
}

/// The outcome of a [`Task`].
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Whether the VM was restored from a snapshot.
    pub restored: bool,
    /// When the command was started, if it was.
    pub started_at: Option<SystemTime>,
    /// When the task ended.
    pub completed_at: SystemTime,
    /// The command's output, captured with `--json`.
    pub captured: Captured,
    /// What was copied out of the guest.
    pub outputs: Vec<OutputDocument>,
    /// Why the rest was not.
    pub outputs_failure: Option<Failure>,
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

/// Where a command's output goes that `output` passes on.
pub fn output_of(output: Output) -> CommandOutput {
    match output.streams_are_one() {
        true => CommandOutput::Merged,
        false => CommandOutput::Separate,
    }
}

/// Boots the VM and runs `task` within `deadline`.
///
/// With `attempt` the VM may be restored from a snapshot.
pub fn run(
    supervisor: &Supervisor,
    task: Task,
    attempt: Option<&mut Attempt>,
    output: Output,
    phases: &mut Phases,
    timeline: &mut Timeline,
    deadline: &Deadline,
) -> Outcome {
    let mut sink = match CommandSink::new(output) {
        Ok(sink) => sink,
        Err(error) => return Outcome::failed(stdout_error(&error)),
    };
    let outputs = task.outputs.clone();
    let outcome = run_steps(
        supervisor, task, attempt, output, phases, timeline, &mut sink,
    );
    let completed_at = SystemTime::now();
    // Within the time limit: the guest sends them.
    let (copied, failure) = match outcome {
        Ok(_) => outputs.collect(supervisor, output),
        Err(_) => (Vec::new(), None),
    };
    deadline.command_ended();
    sink.record_into(timeline);
    let status = match (outcome, deadline.fired()) {
        // A guest that is killed while it sends them sends no more.
        (Ok(_), Some(timed_out)) if failure.is_some() => Status::Failed(timed_out),
        (Ok(exited), _) => Status::Exited(exited),
        (Err(_), Some(timed_out)) => Status::Failed(timed_out),
        (Err(Stop::StdoutClosed), None) => Status::StdoutClosed,
        (Err(Stop::Failed(failure)), None) => Status::Failed(failure),
    };
    Outcome {
        status,
        restored: timeline.is_restored(),
        started_at: sink.started_at,
        completed_at,
        captured: sink.into_captured(),
        outputs: copied,
        outputs_failure: failure,
    }
}

impl Outcome {
    /// How the command ended, if it did.
    pub fn exited(&self) -> Option<Exited> {
        match self.status {
            Status::Exited(exited) => Some(exited),
            _ => None,
        }
    }

    /// Whether the guest did not boot within the time limit of the boot.
    pub fn boot_timed_out(&self) -> bool {
        let timed_out = |failure: &Failure| {
            failure.kind == ErrorKind::Timeout && failure.exit != Some(EXIT_TIMED_OUT)
        };
        self.started_at.is_none() && matches!(&self.status, Status::Failed(f) if timed_out(f))
    }

    fn failed(failure: Failure) -> Outcome {
        Outcome {
            status: Status::Failed(failure),
            restored: false,
            started_at: None,
            completed_at: SystemTime::now(),
            captured: Captured::default(),
            outputs: Vec::new(),
            outputs_failure: None,
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
    mut attempt: Option<&mut Attempt>,
    output: Output,
    phases: &mut Phases,
    timeline: &mut Timeline,
    sink: &mut CommandSink,
) -> Result<Exited, Stop> {
    let Task {
        mut config,
        mut guest,
        mut network,
        ..
    } = task;
    let memory_mib = config.memory_mib;
    let arrival = timed(&mut phases.boot, || {
        let backend = network.prepared().and_then(|it| it.add_device(&mut config));
        let attempt = attempt.as_deref_mut();
        boot(attempt, supervisor, config, backend, task.boot_timeout)
    })?;
    timeline.record_arrival(&arrival);
    timed(&mut phases.configure, || {
        network.configure(&mut guest)?;
        configure(attempt.as_deref(), supervisor, arrival, guest, memory_mib)?;
        network.serve(supervisor)
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
            error => MachineError::of_session(error, supervisor, memory_mib).into(),
        })
    })
}

/// Runs setup commands one after the other, until one fails.
pub fn set_up(
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
            error => MachineError::of_session(error, supervisor, memory_mib).into(),
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
pub fn exec_failure(failure: &AgentFailure) -> Failure {
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

/// The failure of a guest whose memory was exhausted.
pub fn out_of_memory(memory_mib: u64) -> Failure {
    MachineError::OutOfMemory { memory_mib }.into()
}

/// The exit code of this program for a command that ended.
pub fn exit_code(exited: Exited) -> u8 {
    match (exited.code, exited.signal) {
        // An exit status has eight bits.
        (Some(code), _) => (code & 0xff) as u8,
        (None, Some(signal)) => EXIT_SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0)),
        (None, None) => EXIT_RUN_FAILED,
    }
}
