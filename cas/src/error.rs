//! Errors of the store.
//!
//! Every failed system call becomes a [`FailedIo`] that names the file and keeps the operating
//! system's error as its source; the variant around it determines the remediation.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The name of the document with the format of a store.
pub(crate) const STORE_JSON: &str = "store.json";

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full, or the user's quota is exhausted.
    #[error(transparent)]
    NoSpace(FailedIo),
    /// The file system is mounted read-only.
    #[error(transparent)]
    ReadOnly(FailedIo),
    /// The user lacks permission.
    #[error(transparent)]
    Permission(FailedIo),
    /// Any other failed system call.
    #[error(transparent)]
    Io(FailedIo),
    /// The written bytes do not have the expected digest. Nothing was kept.
    #[error("digest mismatch: expected {expected}, got {actual}")]
    Mismatch {
        /// The expected digest.
        expected: Digest,
        /// The digest of the bytes written.
        actual: Digest,
    },
    /// The content of a file in the store is invalid or does not match the file's name.
    #[error("{} is damaged: {why}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A document exceeds the size limit of its reader.
    #[error("{} is {size} bytes, over the limit of {limit}", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store's format is newer than this version supports; using it would damage or misread
    /// it.
    #[error("{} was written by a newer version: {why}", .path.display())]
    NewerFormat {
        /// The file that holds the format.
        path: PathBuf,
        /// The unsupported version or feature.
        why: String,
    },
    /// A name that is invalid for an image or a root.
    #[error("invalid {what} name {name:?}: {why}")]
    InvalidName {
        /// The name.
        name: String,
        /// What it should name, such as `image`.
        what: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
}

/// A system call on a file that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", .path.display())]
pub struct FailedIo {
    /// The attempted action: a verb.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The operating system's error.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// Classifies a failed `action` on `path` into the variant with the right remediation. An
    /// error that a [`crate::BlobWriter`] returned is unwrapped unchanged, with its own path.
    pub fn io(action: &'static str, path: &Path, error: impl Into<io::Error>) -> StoreError {
        let source = match StoreError::from_stream(error.into()) {
            Ok(inner) => return inner,
            Err(source) => source,
        };
        // By kind, not by errno: a wrapped error keeps only its kind.
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
    /// `write`, so that code that copies streams can tell read errors from write errors.
    ///
    /// # Errors
    /// Returns `error` itself when it is not from the store.
    pub fn from_stream(error: io::Error) -> Result<StoreError, io::Error> {
        error.downcast::<StoreError>()
    }

    /// Wraps the error for a signature that requires [`io::Error`]; the kind is kept.
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

    /// The file the error is about, if any.
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

    /// What the user can do about the error, if anything.
    pub fn remediation(&self) -> Option<String> {
        Some(match self {
            StoreError::NoSpace(failed) => {
                format!("free space on the file system of {}", failed.path.display())
            }
            StoreError::ReadOnly(_) | StoreError::Permission(_) => {
                "choose a writable directory with --state-dir".to_owned()
            }
            // Without it the store cannot be opened, so not by verification either.
            StoreError::Corrupt { path, .. } if path.ends_with(STORE_JSON) => {
                format!(
                    "delete {} and retry; it will be written again",
                    path.display()
                )
            }
            StoreError::Corrupt { .. } => {
                "repair the store with: microagent cache verify --repair".to_owned()
            }
            StoreError::NewerFormat { .. } => {
                "use the newer version, or another directory with --state-dir".to_owned()
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
    fn a_store_error_survives_conversion_to_io_error_and_back() {
        let full = StoreError::io("write", Path::new("/a"), Errno::NOSPC);
        let stream = full.into_stream();
        assert_eq!(stream.kind(), io::ErrorKind::StorageFull);
        let back = StoreError::io("copy to", Path::new("/b"), stream);
        assert!(matches!(&back, StoreError::NoSpace(failed) if failed.path == Path::new("/a")));
        assert_eq!(back.to_string(), "cannot write /a");
    }

    #[test]
    fn errno_determines_the_variant() {
        let sort = |errno| StoreError::io("open", Path::new("/x"), errno);
        assert!(matches!(sort(Errno::DQUOT), StoreError::NoSpace(_)));
        assert!(matches!(sort(Errno::ROFS), StoreError::ReadOnly(_)));
        assert!(matches!(sort(Errno::ACCESS), StoreError::Permission(_)));
        assert!(matches!(sort(Errno::PERM), StoreError::Permission(_)));
        assert!(matches!(sort(Errno::NOENT), StoreError::Io(_)));
    }
}
