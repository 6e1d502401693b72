//! What a person or a script is told when something fails, and the exit code.

use std::error::Error;

use microagent_cas::StoreError;
use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;

/// Exit code of any command but `run` for a failure.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for wrong usage.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of `run` when the failure is ours, so that it is never taken for the guest's.
pub const EXIT_RUN_FAILED: u8 = 125;
/// Exit code when `--timeout` fired.
pub const EXIT_TIMED_OUT: u8 = 124;
/// Exit code when the command exists but cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code when the command does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;
/// What a shell adds to the number of the signal that ended a command.
pub const EXIT_SIGNAL_BASE: u8 = 128;

/// A failure, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which kind; the closed list is in docs/cli.md.
    pub kind: ErrorKind,
    /// One line: what failed and why.
    pub message: String,
    /// One line: the way out.
    pub remediation: Option<String>,
    /// The same call may work in a minute.
    pub retryable: bool,
    /// The exit code, where it is not the command's general one.
    pub exit: Option<u8>,
}

impl Failure {
    /// A failure of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        Failure {
            kind,
            message: message.into(),
            remediation: None,
            retryable: matches!(kind, ErrorKind::Unreachable | ErrorKind::Timeout),
            exit: None,
        }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Usage, message).exits(EXIT_USAGE)
    }

    /// A failure with its causes.
    pub fn caused(kind: ErrorKind, error: &dyn Error) -> Failure {
        Failure::new(kind, error_chain(error))
    }

    /// Adds the way out.
    #[must_use]
    pub fn remediation(mut self, remediation: impl Into<String>) -> Failure {
        self.remediation = Some(remediation.into());
        self
    }

    /// Adds the way out, where there is one.
    #[must_use]
    pub fn maybe_remediation(mut self, remediation: Option<String>) -> Failure {
        self.remediation = remediation.or(self.remediation);
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exits(mut self, code: u8) -> Failure {
        self.exit = Some(code);
        self
    }

    /// The exit code, where `general` is the command's own for failures: 1, or 125 for `run`.
    pub fn exit_code(&self, general: u8) -> u8 {
        self.exit.unwrap_or(general)
    }
}

impl From<microagent_pipeline::Error> for Failure {
    fn from(error: microagent_pipeline::Error) -> Failure {
        Failure {
            kind: error.kind(),
            message: error_chain(&error),
            remediation: error.remediation(),
            retryable: error.retryable(),
            exit: None,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        microagent_pipeline::Error::from(error).into()
    }
}
