//! Errors of the harness itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A failure of the harness, as opposed to one of the product.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A required program is not installed.
    #[error("{program} is not installed (tests/host/install.sh test installs it)")]
    Missing {
        /// Its name.
        program: String,
    },
    /// A program failed.
    #[error("{command}: {status}: {stderr}")]
    Tool {
        /// The command.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The last part of its standard error.
        stderr: String,
    },
    /// An operation on a file failed.
    #[error("{path}")]
    File {
        /// Its path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// An event did not happen within its time limit.
    #[error("timed out after {limit:?} waiting for {what}; last output: {seen}")]
    Timeout {
        /// The event.
        what: String,
        /// The time limit.
        limit: Duration,
        /// The last part of the output so far.
        seen: String,
    },
    /// The lab's machine stopped or violated the protocol.
    #[error("the lab failed: {what}; its console ends with: {console}")]
    Lab {
        /// What happened.
        what: String,
        /// The last lines of its kernel.
        console: String,
    },
    /// The lab's machine hung in every one of several boots.
    #[error(
        "the lab's kernel hung for {limit:?} in each of its boots; last output: {seen}\n{processors}"
    )]
    LabStalled {
        /// How long it made no progress.
        limit: Duration,
        /// The last part of its console.
        seen: String,
        /// The state of its processors.
        processors: String,
    },
    /// A tool returned unexpected output.
    #[error("{what}: {got}")]
    Unexpected {
        /// What failed.
        what: String,
        /// The output.
        got: String,
    },
}

impl Error {
    /// Returns a function for `map_err` on operations on a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

/// The last `limit` bytes of `bytes` as text.
pub(crate) fn tail(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(limit)..]).into_owned()
}
