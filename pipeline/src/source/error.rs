//! The errors of sources: of those on disk, and of all together.

use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::StoreError;

use super::registry::error::RegistryError;
use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::image::manifest::{MAX_DOCUMENT, ManifestError};
use crate::tar::reader::TarError;

/// Why a source could not be read.
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

/// Why an archive or a layout on disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}", .path.display())]
pub struct ArchiveError {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: ArchiveProblem,
}

/// What is wrong with an archive or a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each says it
pub enum ArchiveProblem {
    #[error("it does not exist")]
    Absent,
    #[error("it cannot be opened")]
    Open(#[source] io::Error),
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is not {0}")]
    NotThat(&'static str),
    #[error("it is compressed with {0}")]
    Compressed(&'static str),
    #[error("its tar is broken")]
    Tar(#[source] TarError),
    #[error("{0} is missing in it")]
    Missing(String),
    #[error("{name} in it is not valid: {reason}")]
    Malformed { name: String, reason: String },
    #[error("{name} in it is longer than {MAX_DOCUMENT} bytes")]
    TooLong { name: String },
    #[error("it has no image named {name:?}; it has {}", list(available))]
    NoSuchImage {
        name: String,
        available: Vec<String>,
    },
    #[error("it has no image")]
    Empty,
    #[error("it has more than one image: {}", list(available))]
    Ambiguous { available: Vec<String> },
}

fn list(names: &[String]) -> String {
    const MOST: usize = 8;
    let mut text = names
        .iter()
        .take(MOST)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.is_empty() {
        text.push_str("none with a name");
    } else if names.len() > MOST {
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
            ArchiveProblem::NotThat(_) | ArchiveProblem::Compressed(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match &self.problem {
            ArchiveProblem::Absent => "check the path".into(),
            ArchiveProblem::Ambiguous { .. } | ArchiveProblem::NoSuchImage { .. } => {
                "name one of them after the path and a colon".into()
            }
            ArchiveProblem::Compressed(with) => format!("decompress it first, with {with} -d"),
            ArchiveProblem::NotThat(_) => {
                "skopeo copy makes each of the forms: oci:DIR:TAG, oci-archive:FILE, docker-archive:FILE"
                    .into()
            }
            ArchiveProblem::Open(_) | ArchiveProblem::Read(_) => return None,
            _ => "the archive is damaged: save it anew".into(),
        })
    }
}

impl ArchiveProblem {
    /// The problem with the file it is about.
    pub(crate) fn at(self, path: &Path) -> ArchiveError {
        let path = path.to_owned();
        ArchiveError {
            path,
            problem: self,
        }
    }
}
