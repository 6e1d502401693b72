//! Errors of the benchmarks.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why a measurement failed or is invalid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tool, the registry or the test image.
    #[error(transparent)]
    Harness(#[from] microagent_tests::Error),
    /// A measured program did not start.
    #[error("cannot run {command}")]
    Start {
        /// The program.
        command: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A measured program failed.
    #[error("{command}: {status}: {stderr}")]
    Ended {
        /// The command with its arguments.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// The output of a program, or a stored measurement, is not the expected JSON.
    #[error("cannot parse {what}")]
    Parse {
        /// What was parsed.
        what: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A measurement is invalid.
    #[error("invalid {what} measurement: {why}")]
    Invalid {
        /// What was measured: a cold, cached or changed build, a boot, a disk.
        what: &'static str,
        /// The reason.
        why: String,
    },
    /// `--image` is not `LAYOUT:TAG`.
    #[error("invalid image {0:?}: expected LAYOUT:TAG")]
    Image(String),
    /// A file of the harness cannot be accessed.
    #[error("cannot access {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A Markdown file lacks a marker for the results.
    #[error("missing marker {marker} in {path}")]
    NoMarker {
        /// The file.
        path: PathBuf,
        /// The missing marker.
        marker: String,
    },
    /// The chart cannot be drawn.
    #[error("cannot draw the chart: {0}")]
    Chart(String),
}

impl Error {
    /// For `map_err` on operations on a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
