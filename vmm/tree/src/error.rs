use std::error::Error;
use std::io;

use crate::path::Shown;

/// A tree could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A system call failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What failed, as a verb.
        action: &'static str,
        /// The path in the tree.
        path: Shown,
        /// The cause.
        source: io::Error,
    },
    /// An entry cannot be part of a tree.
    #[error("invalid entry {path}: {why}")]
    Invalid {
        /// Its path.
        path: Shown,
        /// Why.
        why: &'static str,
    },
    /// Something else is at the destination.
    #[error("cannot write {path}: {why}")]
    Conflict {
        /// The path.
        path: Shown,
        /// Why.
        why: &'static str,
    },
    /// A file changed while it was read.
    #[error("{0} was truncated while it was read")]
    Truncated(Shown),
    /// The tree exceeds a limit.
    #[error("the tree is too large: {0}")]
    Limit(&'static str),
    /// The other side failed.
    #[error(transparent)]
    Other(Box<dyn Error + Send + Sync>),
}

impl TreeError {
    /// A failed system call.
    pub fn io(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> TreeError {
        TreeError::Io {
            action,
            path: Shown::from(path),
            source: source.into(),
        }
    }

    /// An error of a sink that is not about files.
    pub fn other(error: impl Error + Send + Sync + 'static) -> TreeError {
        TreeError::Other(Box::new(error))
    }

    pub(crate) fn conflict(path: &[u8], why: &'static str) -> TreeError {
        TreeError::Conflict {
            path: Shown::from(path),
            why,
        }
    }

    pub(crate) fn invalid(path: &[u8], why: &'static str) -> TreeError {
        TreeError::Invalid {
            path: Shown::from(path),
            why,
        }
    }
}
