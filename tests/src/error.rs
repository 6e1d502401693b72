//! What can go wrong in the harness itself.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The harness could not do its part; says nothing about the product.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that the tests need is not installed.
    #[error("{program} is not installed (tests/host/install.sh test installs it)")]
    Missing {
        /// Its name.
        program: String,
    },
    /// A program ended with a failure.
    #[error("{command}: {status}: {stderr}")]
    Tool {
        /// What was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// A file could not be handled.
    #[error("{path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; last seen: {seen}")]
    Late {
        /// What was awaited.
        what: String,
        /// How long.
        limit: Duration,
        /// The end of what was seen until then.
        seen: String,
    },
    /// The lab's machine ended or spoke otherwise than agreed.
    #[error("the lab failed: {what}; its console ends with: {console}")]
    Lab {
        /// What happened.
        what: String,
        /// The last lines of its kernel.
        console: String,
    },
    /// No process of the lab's machine runs any more, though it was booted several times.
    #[error(
        "the lab's kernel stood still for {limit:?} in each of its boots; last seen: {seen}\n{processors}"
    )]
    LabStandsStill {
        /// How long that was looked at.
        limit: Duration,
        /// The end of its console.
        seen: String,
        /// Where its processors were.
        processors: String,
    },
    /// A tool answered something that could not be understood.
    #[error("{what}: {got}")]
    Unexpected {
        /// What was asked.
        what: String,
        /// The answer.
        got: String,
    },
}

impl Error {
    /// For `map_err` on operations on a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}

/// The last `limit` bytes of `bytes` as text.
pub(crate) fn tail(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(limit)..]).into_owned()
}
