//! What can go wrong while measuring.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// There is no measurement, or none that means what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tool, the registry or the test image.
    #[error(transparent)]
    Harness(#[from] microagent_tests::Error),
    /// A measured program did not start.
    #[error("cannot run {command}")]
    Start {
        /// What was run.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A measured program failed.
    #[error("{command}: {status}: {stderr}")]
    Ended {
        /// What was run.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
    /// A measured program answered something that could not be understood.
    #[error("the answer of {command} cannot be read")]
    Answer {
        /// What was run.
        command: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What was measured is not what should have been measured.
    #[error("the {build} build is none: {why}")]
    NotMeasured {
        /// Which one: cold, cached, changed.
        build: &'static str,
        /// What it did instead.
        why: String,
    },
    /// `--image` is not `LAYOUT:TAG`.
    #[error("{0:?} is not LAYOUT:TAG")]
    Image(String),
    /// A file of the harness.
    #[error("{path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A Markdown file has no place for the results.
    #[error("{path} has no line {marker}")]
    NoPlace {
        /// Which one.
        path: PathBuf,
        /// The line that is missing.
        marker: String,
    },
    /// The chart could not be drawn.
    #[error("the chart cannot be drawn: {0}")]
    Chart(String),
}

impl Error {
    /// For `map_err` on operations on a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
