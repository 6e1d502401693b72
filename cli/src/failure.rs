//! The failure of a command: kind, message, remediation and exit code.

use std::error::Error;
use std::io;

use microagent_cas::StoreError;
use microagent_pipeline::ErrorKind;
use microagent_proto::error_chain;
use microagent_workspace::machine::MachineError;
use microagent_workspace::machine::mediation::Unreachable;
use microagent_workspace::machine::run_dir::RunDirError;
use microagent_workspace::machine::supervisor::SupervisorError;
use microagent_workspace::network::NetworkError;
use serde::Serialize;

use crate::host_limit;

/// Exit code of any command but `run` for a failure.
pub const EXIT_FAILED: u8 = 1;
/// Exit code for a usage error.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of `run` for a failure of microagent, distinct from the guest command's exit codes.
pub const EXIT_RUN_FAILED: u8 = 125;
/// Exit code when `--timeout` expired.
pub const EXIT_TIMED_OUT: u8 = 124;
/// Exit code when the guest command exists but cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code when the guest command does not exist.
pub const EXIT_NOT_FOUND: u8 = 127;
/// Added to a signal number for the exit code of a command killed by that signal, as shells do.
pub const EXIT_SIGNAL_BASE: u8 = 128;

/// Exit code when the reader of standard output closed it: that of a program killed by SIGPIPE.
pub const EXIT_SIGPIPE: u8 = EXIT_SIGNAL_BASE + 13;

/// A failure, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind; docs/cli.md has the closed list.
    pub kind: ErrorKind,
    /// One line: what failed and why.
    pub message: String,
    /// One line: how to fix it.
    pub remediation: Option<String>,
    /// The same command may succeed later without any change.
    pub retryable: bool,
    /// The exit code, if it differs from the command's default for failures.
    pub exit: Option<u8>,
}

impl Failure {
    /// A failure of this kind. It has a remediation only if it is about a limit of this process.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Failure {
        let message = message.into();
        let remediation = match kind {
            ErrorKind::Host => host_limit::remediation(&message).map(str::to_owned),
            _ => None,
        };
        Failure {
            kind,
            message,
            remediation,
            retryable: matches!(kind, ErrorKind::Unreachable | ErrorKind::Timeout),
            exit: None,
        }
    }

    /// A usage error.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(ErrorKind::Usage, message).exits(EXIT_USAGE)
    }

    /// A failure whose message is `error` and its sources.
    pub fn caused(kind: ErrorKind, error: &dyn Error) -> Failure {
        Failure::new(kind, error_chain(error))
    }

    /// Sets the remediation.
    #[must_use]
    pub fn remediation(mut self, remediation: impl Into<String>) -> Failure {
        self.remediation = Some(remediation.into());
        self
    }

    /// Sets the remediation, if there is one; otherwise leaves it unchanged.
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

    /// The exit code; `default` is the command's own for failures: 1, or 125 for `run`.
    pub fn exit_code(&self, default: u8) -> u8 {
        self.exit.unwrap_or(default)
    }
}

/// The kind of a file system's error.
pub fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ErrorKind::Permission
        }
        _ => ErrorKind::Host,
    }
}

/// A failure as a JSON document; docs/cli.md describes it.
#[derive(Debug, Serialize)]
pub struct ErrorDocument {
    /// Its kind.
    pub kind: &'static str,
    /// What failed and why.
    pub message: String,
    /// How to fix it.
    pub remediation: Option<String>,
    /// Whether the same command may succeed later.
    pub retryable: bool,
}

impl ErrorDocument {
    /// The document of a failure.
    pub fn new(failure: &Failure) -> ErrorDocument {
        ErrorDocument {
            kind: failure.kind.as_str(),
            message: failure.message.clone(),
            remediation: failure.remediation.clone(),
            retryable: failure.retryable,
        }
    }
}

impl From<microagent_pipeline::Error> for Failure {
    fn from(error: microagent_pipeline::Error) -> Failure {
        let mut failure =
            Failure::caused(error.kind(), &error).maybe_remediation(error.remediation());
        failure.retryable = error.retryable();
        failure
    }
}

impl From<SupervisorError> for Failure {
    fn from(error: SupervisorError) -> Failure {
        Failure::caused(error.kind(), &error).maybe_remediation(error.remediation())
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Failure {
        Failure::caused(error.kind(), &error).maybe_remediation(error.remediation())
    }
}

impl From<Unreachable> for Failure {
    fn from(error: Unreachable) -> Failure {
        Failure::caused(ErrorKind::Unreachable, &error).remediation(error.remediation())
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Failure {
        Failure::caused(error.kind(), &error).maybe_remediation(error.remediation())
    }
}

impl From<RunDirError> for Failure {
    fn from(error: RunDirError) -> Failure {
        let failure = Failure::caused(error.kind(), &error);
        match failure.remediation {
            // It is about a limit of this process.
            Some(_) => failure,
            None => failure.maybe_remediation(error.remediation()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        microagent_pipeline::Error::from(error).into()
    }
}
