//! Why a text is not an image reference.

use crate::diagnosis::{Diagnosis, ErrorKind};

/// The maximum length of registry and repository together (`distribution`'s grammar).
pub(super) const MAX_NAME: usize = 255;

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference:?} is not an image reference: {problem}")]
pub struct ReferenceError {
    /// The text, truncated to fit a line.
    pub reference: String,
    /// The problem.
    pub problem: ReferenceProblem,
}

/// The problem with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each message documents its variant
pub enum ReferenceProblem {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_NAME} characters")]
    TooLong,
    #[error("the registry {0:?} is not a host name with an optional port")]
    Registry(String),
    #[error("the repository {0:?} has upper-case letters")]
    UpperCase(String),
    #[error("{0:?} is not a repository name")]
    Repository(String),
    #[error("{0:?} is not a tag")]
    Tag(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("there is no path after {0:?}")]
    NoPath(&'static str),
    #[error("{0:?} is a transport of skopeo that is not supported")]
    Transport(&'static str),
}

impl Diagnosis for ReferenceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn remediation(&self) -> Option<String> {
        Some(match self.problem {
            ReferenceProblem::UpperCase(_) => {
                format!("write it in lower case: {}", self.reference.to_lowercase())
            }
            ReferenceProblem::NoPath(prefix) => format!("write {prefix}PATH or {prefix}PATH:TAG"),
            ReferenceProblem::Transport(_) => format!(
                "copy it with `skopeo copy {} oci-archive:FILE` and use oci-archive:FILE",
                self.reference
            ),
            ReferenceProblem::Digest(_) => {
                "a digest is sha256: and 64 hexadecimal digits, as in busybox@sha256:9ae9…".into()
            }
            _ => "write it like docker.io/library/busybox:1.36, localhost:5000/app@sha256:…, \
                  oci:DIR:tag, oci-archive:FILE or docker-archive:FILE"
                .into(),
        })
    }
}
