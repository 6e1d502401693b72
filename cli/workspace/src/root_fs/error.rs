use std::io;
use std::path::PathBuf;

use microagent_tree::Shown;
use microagent_vmm::virtio::block::{BlockError, PresenceError};

/// The root file system of a workspace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootFsError {
    /// A file of the workspace or of the store cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The map of what the guest wrote cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Presence {
        /// The file.
        path: PathBuf,
        /// Why.
        source: PresenceError,
    },
    /// A VM uses the disk.
    #[error(transparent)]
    InUse(BlockError),
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Disk(#[source] io::Error),
    /// The file system was not unmounted: its journal has to be replayed first.
    #[error("the file system was not unmounted cleanly")]
    Dirty,
    /// The file system has a feature that is not supported.
    #[error("the file system is not supported: {0}")]
    Unsupported(String),
    /// The file system is damaged.
    #[error("the file system is damaged: {0}")]
    Damaged(String),
    /// There is no such file.
    #[error("there is no {0} in the guest")]
    NotFound(Shown),
    /// A part of a path is not a directory.
    #[error("{0} is not a directory in the guest")]
    NotADirectory(Shown),
    /// A path has too many symbolic links.
    #[error("{0} has too many levels of symbolic links")]
    Loop(Shown),
}

impl RootFsError {
    pub(super) fn damaged(what: impl Into<String>) -> RootFsError {
        RootFsError::Damaged(what.into())
    }
}

impl From<mkext4::Error> for RootFsError {
    fn from(error: mkext4::Error) -> RootFsError {
        match error {
            mkext4::Error::Io(error) => RootFsError::Disk(error),
            mkext4::Error::Unsupported(what) => RootFsError::Unsupported(what),
            other => RootFsError::Damaged(other.to_string()),
        }
    }
}
