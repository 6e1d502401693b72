//! The errors of sources on disk, and the common error of all sources.

use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::StoreError;

use super::registry::error::RegistryError;
use crate::diagnosis::{Diagnosis, ErrorKind, shown};
use crate::image::manifest::{MAX_DOCUMENT, ManifestError};
use crate::tar::reader::TarError;
use crate::tar::stream::MAX_UNPACKED;

/// The error of any source.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum SourceFailure {
    Store(#[from] StoreError),
    Registry(#[from] RegistryError),
    Archive(#[from] ArchiveError),
    Manifest(#[from] ManifestError),
}

impl Diagnosis for SourceFailure {
    fn kind(&self) -> ErrorKind {
        match self {
            SourceFailure::Store(error) => error.kind(),
            SourceFailure::Registry(error) => error.kind(),
            SourceFailure::Archive(error) => error.kind(),
            SourceFailure::Manifest(error) => error.kind(),
        }
    }
}

/// An archive or layout on disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", .path.display())]
pub struct ArchiveError {
    /// The file or directory.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub problem: ArchiveProblem,
}

/// Why an archive or layout cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages document the variants
pub enum ArchiveProblem {
    #[error("it does not exist")]
    Absent,
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is not {0}")]
    UnexpectedFormat(&'static str),
    #[error("it is compressed with {0}")]
    Compressed(&'static str),
    #[error("it unpacks to more than {} GiB", MAX_UNPACKED >> 30)]
    TooLarge,
    #[error("it is not a valid tar file")]
    Tar(#[source] TarError),
    #[error("it does not contain {}", shown(.0))]
    Missing(String),
    #[error("it contains an invalid {}: {}", shown(name), shown(reason))]
    Malformed { name: String, reason: String },
    #[error("its {name} is longer than {MAX_DOCUMENT} bytes")]
    TooLong { name: String },
    #[error("it contains no image named {name:?}; available: {}", list(available))]
    NoSuchImage {
        name: String,
        available: Vec<String>,
    },
    #[error("it contains no image")]
    Empty,
    #[error("it contains more than one image: {}", list(available))]
    Ambiguous { available: Vec<String> },
}

/// Lists names for a message, at most 8.
fn list(names: &[String]) -> String {
    const MAX: usize = 8;
    let mut text = names
        .iter()
        .take(MAX)
        .map(|name| shown(name))
        .collect::<Vec<_>>()
        .join(", ");
    if names.is_empty() {
        text.push_str("none");
    } else if names.len() > MAX {
        text.push_str(", …");
    }
    text
}

impl Diagnosis for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match &self.problem {
            ArchiveProblem::Absent | ArchiveProblem::Empty | ArchiveProblem::NoSuchImage { .. } => {
                ErrorKind::NotFound
            }
            ArchiveProblem::Ambiguous { .. } => ErrorKind::Usage,
            ArchiveProblem::Open(error) | ArchiveProblem::Read(error) => match error.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            ArchiveProblem::UnexpectedFormat(_) | ArchiveProblem::Compressed(_) => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match &self.problem {
            ArchiveProblem::Absent => "check the path".into(),
            ArchiveProblem::Ambiguous { .. } | ArchiveProblem::NoSuchImage { .. } => {
                "append a colon and one of them to the path".into()
            }
            ArchiveProblem::Compressed(with) => {
                format!("decompress it first, or compress it with gzip, zstd, bzip2 or xz instead of {with}")
            }
            ArchiveProblem::UnexpectedFormat(_) => {
                "convert it with `skopeo copy` to oci:DIR:TAG, oci-archive:FILE or docker-archive:FILE"
                    .into()
            }
            ArchiveProblem::Open(_) | ArchiveProblem::Read(_) => return None,
            _ => "the archive is damaged; save it again".into(),
        })
    }
}

impl ArchiveProblem {
    /// Adds the path.
    pub(crate) fn at(self, path: &Path) -> ArchiveError {
        let path = path.to_owned();
        ArchiveError {
            path,
            problem: self,
        }
    }
}
