//! Errors of the supervisor: why there is no VM.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use microagent_pipeline::ErrorKind;
use microagent_proto::control::StopReason;
use microagent_proto::envelope::{Mismatch, Program};

/// The VM ended, or could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The supervisor program cannot be started.
    #[error("cannot start the supervisor {}", .path.display())]
    Spawn {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// `/dev/null` cannot be opened.
    #[error("cannot open /dev/null")]
    Null(#[source] io::Error),
    /// The control socket failed while the supervisor was running.
    #[error("the control socket of the supervisor failed")]
    Control(#[source] io::Error),
    /// It uses another version of the protocol.
    #[error(transparent)]
    Version(#[from] Mismatch),
    /// It sent a malformed message of this version.
    #[error("invalid message from microagent-supervisor")]
    Protocol,
    /// It could not start the VM, or the monitor failed.
    #[error("{message}")]
    Failed {
        /// Its error message.
        message: String,
        /// Its remediation.
        remediation: Option<String>,
        /// The end of the guest's console.
        console: String,
    },
    /// The VM stopped.
    #[error("the guest {}", describe(*.reason))]
    Stopped {
        /// How it stopped.
        reason: StopReason,
        /// The end of the guest's console.
        console: String,
    },
    /// The supervisor exited without a last message.
    #[error("the supervisor of the VM died ({how}){stderr}")]
    Died {
        /// Its exit status.
        how: String,
        /// The last line of its standard error after a colon, or empty.
        stderr: String,
    },
    /// The guest agent did not report in time.
    #[error("the guest agent did not report within {} s", .timeout.as_secs())]
    ReadyTimeout {
        /// The time limit.
        timeout: Duration,
        /// The end of the guest's console.
        console: String,
    },
}

/// Parts of console lines that a guest without memory prints: the kernel when it cannot unpack the
/// initramfs or finds nothing to kill, and the agent when an allocation or a call fails (ENOMEM).
const OUT_OF_MEMORY: [&str; 5] = [
    "Initramfs unpacking failed: write error",
    "System is deadlocked on memory",
    "Out of memory",
    "memory allocation of ",
    "(os error 12)",
];

impl SupervisorError {
    /// Whether the VM ended, or did not start, because the guest's memory was exhausted.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            SupervisorError::Stopped { console, .. }
            | SupervisorError::ReadyTimeout { console, .. } => {
                OUT_OF_MEMORY.iter().any(|text| console.contains(text))
            }
            _ => false,
        }
    }

    /// Whether the guest powered off, so that its disks are clean.
    pub fn is_power_off(&self) -> bool {
        matches!(
            self,
            SupervisorError::Stopped {
                reason: StopReason::PowerOff,
                ..
            }
        )
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SupervisorError::Stopped { .. } => ErrorKind::Guest,
            SupervisorError::ReadyTimeout { .. } => ErrorKind::Timeout,
            SupervisorError::Version(_) | SupervisorError::Protocol => ErrorKind::Internal,
            SupervisorError::Spawn { .. }
            | SupervisorError::Null(_)
            | SupervisorError::Control(_)
            | SupervisorError::Failed { .. }
            | SupervisorError::Died { .. } => ErrorKind::Host,
        }
    }

    /// What the user can do about it, or the line of the guest's console that explains it.
    pub fn remediation(&self) -> Option<String> {
        let console = match self {
            SupervisorError::Failed { remediation, .. } => return remediation.clone(),
            SupervisorError::Version(mismatch) => return Some(mismatch.remediation()),
            SupervisorError::Stopped { console, .. }
            | SupervisorError::ReadyTimeout { console, .. } => console,
            _ => return None,
        };
        relevant_line(console).map(|line| format!("guest console: {line}"))
    }
}

fn describe(reason: StopReason) -> &'static str {
    match reason {
        StopReason::PowerOff => "powered off before its command ended",
        StopReason::Reset => "was reset before its command ended",
        StopReason::Crash => "crashed before its command ended",
        StopReason::Killed => "was killed before its command ended",
    }
}

/// The line of a console that best explains the end: the agent's last message, a kernel panic, or
/// the last line.
fn relevant_line(console: &str) -> Option<&str> {
    let lines = || console.lines().map(str::trim).rev();
    lines()
        .find(|line| line.starts_with("microagent-guest: "))
        .or_else(|| lines().find(|line| line.contains("Kernel panic")))
        .or_else(|| lines().find(|line| !line.is_empty()))
}

/// The error for a supervisor that exited with `status`.
pub(super) fn died(status: Option<ExitStatus>, stderr: &str) -> SupervisorError {
    // Versions that do not know the envelope end like this when they receive one.
    if status.and_then(|status| status.code()) == Some(2)
        && stderr.trim_end().ends_with("invalid control message")
    {
        return SupervisorError::Version(Mismatch {
            us: Program::CommandLine,
            peer: Program::Supervisor,
            version: None,
        });
    }
    let how = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        _ => "exit status unknown".to_owned(),
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    SupervisorError::Died {
        how,
        stderr: last
            .map(|line| format!(": {}", line.trim()))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausted_memory_is_recognised_on_the_console() {
        let stopped = |console: &str| SupervisorError::Stopped {
            reason: StopReason::Reset,
            console: console.into(),
        };
        for console in [
            "x\n[ 1.6] Kernel panic - not syncing: System is deadlocked on memory\n",
            "[ 0.9] Initramfs unpacking failed: write error\n[ 1.0] Kernel panic - no init\n",
            "microagent-guest: cannot start a thread: Cannot allocate memory (os error 12)\n",
        ] {
            assert!(stopped(console).is_out_of_memory(), "{console}");
        }
        assert!(!stopped("[ 1.0] Kernel panic - not syncing: VFS\n").is_out_of_memory());
    }

    #[test]
    fn the_most_relevant_console_line_is_chosen() {
        let panic = "a\n[ 1.0] Kernel panic - not syncing\nCPU: 0\n---[ end ]\n\n";
        assert_eq!(
            relevant_line(panic),
            Some("[ 1.0] Kernel panic - not syncing")
        );
        let agent = "x\r\nmicroagent-guest: cannot mount /dev\r\n[ 2.0] reboot: Power down\r\n";
        assert_eq!(
            relevant_line(agent),
            Some("microagent-guest: cannot mount /dev")
        );
        assert_eq!(relevant_line("a\nb\n \n"), Some("b"));
        assert_eq!(relevant_line(""), None);
    }
}
