//! What can go wrong with a store.
//!
//! Every failed system call becomes a [`FailedIo`] that names the file and keeps the operating
//! system's error as its source; the variant around it says which way out there is.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk, or the user's quota on it, is full.
    #[error(transparent)]
    NoSpace(FailedIo),
    /// The file system is mounted read-only.
    #[error(transparent)]
    ReadOnly(FailedIo),
    /// The user may not do this here.
    #[error(transparent)]
    Permission(FailedIo),
    /// Any other failed system call.
    #[error(transparent)]
    Io(FailedIo),
    /// What was written does not have the digest it was announced with. Nothing was kept.
    #[error("the content has digest {actual}, not {expected}")]
    Mismatch {
        /// The digest that was announced.
        expected: Digest,
        /// The digest of the bytes that came.
        actual: Digest,
    },
    /// A file of the store does not hold what its name says.
    #[error("{} is damaged: {why}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A document is larger than its reader allows.
    #[error("{} has {size} bytes, more than the {limit} allowed here", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The directory is a store of a newer version, and this one would damage or misread it.
    #[error("{} was written by a newer version: {why}", .path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version or feature that is unknown here.
        why: String,
    },
    /// A name that cannot be a tag or a root.
    #[error("{name:?} cannot name {what}: {why}")]
    InvalidName {
        /// The name.
        name: String,
        /// What it should have named.
        what: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
}

/// A system call on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", .path.display())]
pub struct FailedIo {
    /// What was tried: a verb.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the operating system answered.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// Sorts a failed `action` on `path` into the variant that says what to do about it. An error
    /// that came out of a [`crate::BlobWriter`] is handed back as it was, with its own path.
    pub fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> StoreError {
        let source = match StoreError::from_stream(error.into()) {
            Ok(inner) => return inner,
            Err(source) => source,
        };
        // By kind, not by errno: an error that was wrapped on its way has only the former.
        let kind = source.kind();
        let failed = FailedIo {
            action,
            path: path.to_owned(),
            source,
        };
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoSpace(failed)
            }
            io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(failed),
            io::ErrorKind::PermissionDenied => StoreError::Permission(failed),
            _ => StoreError::Io(failed),
        }
    }

    /// The store's error inside an [`io::Error`] that a [`crate::BlobWriter`] returned from
    /// `write`, so that code which copies streams can tell its source's failures from ours.
    ///
    /// # Errors
    /// Gives the error back when it did not come from the store.
    pub fn from_stream(error: io::Error) -> Result<StoreError, io::Error> {
        error.downcast::<StoreError>()
    }

    /// The same error for a signature that demands [`io::Error`]; the kind is kept.
    pub(crate) fn into_stream(self) -> io::Error {
        let kind = match &self {
            StoreError::NoSpace(failed)
            | StoreError::ReadOnly(failed)
            | StoreError::Permission(failed)
            | StoreError::Io(failed) => failed.source.kind(),
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }

    /// The file the error is about, where it is about one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            StoreError::NoSpace(failed)
            | StoreError::ReadOnly(failed)
            | StoreError::Permission(failed)
            | StoreError::Io(failed) => Some(&failed.path),
            StoreError::Corrupt { path, .. }
            | StoreError::TooLarge { path, .. }
            | StoreError::NewerFormat { path, .. } => Some(path),
            StoreError::Mismatch { .. } | StoreError::InvalidName { .. } => None,
        }
    }

    /// What the user can do about it, where there is something.
    pub fn remediation(&self) -> Option<String> {
        Some(match self {
            StoreError::NoSpace(failed) => {
                format!("free space on the file system of {}", failed.path.display())
            }
            StoreError::ReadOnly(_) | StoreError::Permission(_) => {
                "choose a writable directory with --state-dir".to_owned()
            }
            StoreError::Corrupt { path, .. } => {
                format!(
                    "delete {} and try again; it will be made anew",
                    path.display()
                )
            }
            StoreError::NewerFormat { .. } => {
                "use that newer version, or another directory with --state-dir".to_owned()
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_error_from_a_writer_survives_the_trip_through_io_error() {
        let full = StoreError::io("write", Path::new("/a"), Errno::NOSPC);
        let stream = full.into_stream();
        assert_eq!(stream.kind(), io::ErrorKind::StorageFull);
        let back = StoreError::io("copy to", Path::new("/b"), stream);
        assert!(matches!(&back, StoreError::NoSpace(failed) if failed.path == Path::new("/a")));
        assert_eq!(back.to_string(), "cannot write /a");
    }

    #[test]
    fn errno_decides_the_variant() {
        let sort = |errno| StoreError::io("open", Path::new("/x"), errno);
        assert!(matches!(sort(Errno::DQUOT), StoreError::NoSpace(_)));
        assert!(matches!(sort(Errno::ROFS), StoreError::ReadOnly(_)));
        assert!(matches!(sort(Errno::ACCESS), StoreError::Permission(_)));
        assert!(matches!(sort(Errno::PERM), StoreError::Permission(_)));
        assert!(matches!(sort(Errno::NOENT), StoreError::Io(_)));
    }
}
