//! Why a tree cannot be written as a file system image.

use std::io;
use std::path::PathBuf;

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// Why a tree cannot be converted to a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum DiskError {
    #[error("{requested_mib} MiB is too small for the image: the minimum is {minimum_mib} MiB")]
    TooSmall {
        requested_mib: u64,
        minimum_mib: u64,
    },
    #[error("the image is too large: the maximum size of a root file system is {maximum_mib} MiB")]
    TooLarge { maximum_mib: u64 },
    #[error("a name in {directory:?} is not UTF-8, and the built-in ext4 writer cannot store it")]
    Name { directory: String },
    #[error("the extended attributes of {path:?} cannot be stored in an ext4 file system")]
    Attributes { path: String },
    #[error("the file {path:?} exceeds the maximum file size of ext4")]
    FileTooLarge { path: String },
    #[error("{path:?} cannot be stored in an ext4 file system")]
    Inode {
        path: String,
        #[source]
        source: mkext4::Error,
    },
    #[error("the root file system cannot be laid out")]
    Layout {
        #[source]
        source: mkext4::Error,
    },
}

impl Diagnosis for DiskError {
    fn kind(&self) -> ErrorKind {
        match self {
            DiskError::TooSmall { .. } => ErrorKind::TooSmall,
            DiskError::Layout { .. } => ErrorKind::Internal,
            _ => ErrorKind::Unsupported,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            DiskError::TooSmall { minimum_mib, .. } => {
                format!("use --size-mib {minimum_mib} or more, or leave it out")
            }
            DiskError::Name { .. } => {
                "use --mke2fs with the path of your system's mke2fs, such as /usr/sbin/mke2fs"
                    .into()
            }
            _ => return None,
        })
    }
}

/// Why an image that is laid out could not be written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The image file cannot be written.
    Image(io::Error),
    /// The tar of this layer (counted from 0) does not match its index.
    Layer(usize),
    /// The file system cannot hold the tree.
    Disk(DiskError),
}

/// Why the host's programs could not make a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum Mke2fsError {
    #[error("{} cannot be used", path.display())]
    Program {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} failed: {output}", path.display())]
    Failed { path: PathBuf, output: String },
    #[error("the name {path:?} cannot be passed to debugfs")]
    Name { path: String },
}

impl Diagnosis for Mke2fsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Mke2fsError::Program { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            Mke2fsError::Failed { .. } => ErrorKind::Host,
            Mke2fsError::Name { .. } => ErrorKind::Unsupported,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            Mke2fsError::Program { .. } => {
                "install e2fsprogs (mke2fs and debugfs in one directory), or leave --mke2fs out"
                    .into()
            }
            _ => "leave --mke2fs out to use the built-in writer".into(),
        })
    }
}

/// Why an image could not be made with the host's programs.
#[derive(Debug)]
pub(crate) enum Mke2fsFailure {
    Store(StoreError),
    Disk(DiskError),
    Mke2fs(Mke2fsError),
    /// The tar of this layer (counted from 0) does not match its index.
    Layer(usize),
}

impl From<StoreError> for Mke2fsFailure {
    fn from(error: StoreError) -> Mke2fsFailure {
        Mke2fsFailure::Store(error)
    }
}

impl From<DiskError> for Mke2fsFailure {
    fn from(error: DiskError) -> Mke2fsFailure {
        Mke2fsFailure::Disk(error)
    }
}

impl From<Mke2fsError> for Mke2fsFailure {
    fn from(error: Mke2fsError) -> Mke2fsFailure {
        Mke2fsFailure::Mke2fs(error)
    }
}
