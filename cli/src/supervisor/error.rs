//! Why there is no VM any more.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use microagent_pipeline::ErrorKind;
use microagent_proto::control::StopReason;

use crate::failure::Failure;

/// Why there is no VM any more, or why there never was one.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The program cannot be started.
    #[error("cannot start the supervisor {}", .path.display())]
    Spawn {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The control socket failed while the supervisor lived.
    #[error("cannot talk to the supervisor")]
    Control(#[source] io::Error),
    /// It sent what cannot be understood.
    #[error("the supervisor speaks another language; it is not of this version")]
    Protocol,
    /// It could not start the VM, or the monitor failed.
    #[error("{message}")]
    Failed {
        /// Its own words.
        message: String,
        /// The way out.
        remediation: Option<String>,
        /// The end of the guest's console.
        console: String,
    },
    /// The VM ended by itself.
    #[error("the guest {}", describe(*.reason))]
    Stopped {
        /// How.
        reason: StopReason,
        /// The end of the guest's console.
        console: String,
    },
    /// The supervisor is gone without a word.
    #[error("the supervisor of the VM died ({how}){stderr}")]
    Died {
        /// Its exit status.
        how: String,
        /// The end of its standard error, led by a colon; or nothing.
        stderr: String,
    },
    /// Nothing was heard in time.
    #[error("the guest agent did not report within {} s", .0.as_secs())]
    ReadyTimeout(Duration),
}

fn describe(reason: StopReason) -> &'static str {
    match reason {
        StopReason::PowerOff => "powered off before its command had ended",
        StopReason::Reset => "was reset before its command had ended",
        StopReason::Crash => "crashed before its command had ended",
        StopReason::Killed => "was killed before its command had ended",
    }
}

impl From<SupervisorError> for Failure {
    fn from(error: SupervisorError) -> Failure {
        let (kind, console) = match &error {
            SupervisorError::Stopped { console, .. } => (ErrorKind::Guest, console.as_str()),
            SupervisorError::Failed { console, .. } => (ErrorKind::Host, console.as_str()),
            SupervisorError::ReadyTimeout(_) => (ErrorKind::Timeout, ""),
            SupervisorError::Protocol => (ErrorKind::Internal, ""),
            _ => (ErrorKind::Host, ""),
        };
        let mut failure = Failure::caused(kind, &error);
        if let SupervisorError::Failed { remediation, .. } = error {
            return failure.maybe_remediation(remediation);
        }
        if let Some(line) = relevant_line(console) {
            failure = failure.remediation(format!("the guest's last words: {line}"));
        }
        failure
    }
}

/// The line of a console that says most about its end: the agent's, a panic's, or the last.
fn relevant_line(console: &str) -> Option<&str> {
    let lines = || console.lines().map(str::trim).rev();
    lines()
        .find(|line| line.starts_with("microagent-guest: "))
        .or_else(|| lines().find(|line| line.contains("Kernel panic")))
        .or_else(|| lines().find(|line| !line.is_empty()))
}

/// The error of a supervisor that has exited.
pub(super) fn died(status: Option<ExitStatus>, stderr: &str) -> SupervisorError {
    let how = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        _ => "no trace".to_owned(),
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
    fn the_line_that_says_most_is_shown() {
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
