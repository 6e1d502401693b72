//! One measured `microagent run`, from before its process starts until its VM is gone.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use microagent_pipeline::ErrorKind;
use microagent_workspace::machine::timeline::{TimelineEntry, monotonic_micros};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait};
use serde::Deserialize;

use crate::failure::Failure;

/// The timestamps of one run, in microseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Clone)]
pub struct Iteration {
    /// Before the process was spawned.
    pub started: u64,
    /// Whether its VM was restored from a snapshot.
    pub restored: bool,
    /// The run's own timeline.
    pub marks: Vec<TimelineEntry>,
    /// The process exited.
    pub exited: u64,
    /// The VM's process was gone; a normal caller does not wait for it.
    pub vm_gone: u64,
}

/// The used part of the document of `run --json`.
#[derive(Deserialize)]
struct Document {
    restored: bool,
    timeline: Vec<TimelineEntry>,
}

#[derive(Deserialize)]
struct ErrorLine {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    message: String,
    remediation: Option<String>,
}

/// Makes this process a child subreaper, so that it can wait for supervisors whose parents have
/// exited.
///
/// # Errors
/// When `prctl` fails.
pub fn become_subreaper() -> Result<(), Failure> {
    set_child_subreaper(Some(Pid::INIT))
        .map_err(|error| Failure::caused(ErrorKind::Host, &std::io::Error::from(error)))
}

/// Runs this program with `args`, which must select `run --json`.
///
/// # Errors
/// When the run fails, with its error message; when its command does not exit with 0.
pub fn measure(args: &[OsString]) -> Result<Iteration, Failure> {
    let host = |error: &std::io::Error| Failure::caused(ErrorKind::Host, error);
    let program = std::env::current_exe().map_err(|error| host(&error))?;
    let mut command = Command::new(program);
    command
        .args(args)
        // `--no-snapshot` says whether they are to be used.
        .env("MICROAGENT_SNAPSHOT", "on")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = monotonic_micros();
    let output = command
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .map_err(|error| host(&error))?;
    let exited = monotonic_micros();
    wait_for_children();
    let vm_gone = monotonic_micros();
    if !output.status.success() {
        return Err(run_failure(&output));
    }
    let document: Document = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::caused(ErrorKind::Internal, &error))?;
    Ok(Iteration {
        started,
        restored: document.restored,
        marks: document.timeline,
        exited,
        vm_gone,
    })
}

/// Waits until no child process is left.
pub fn wait_for_children() {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn run_failure(output: &std::process::Output) -> Failure {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<ErrorLine>(line).ok());
    match line {
        Some(ErrorLine { error }) => {
            Failure::new(ErrorKind::Guest, error.message).maybe_remediation(error.remediation)
        }
        None => Failure::new(
            ErrorKind::Guest,
            format!("the measured command failed: {}", output.status),
        )
        .remediation("use a command that exits with 0: --exec COMMAND"),
    }
}
