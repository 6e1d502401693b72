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
    #[error("it is not {expected} but {}", found.name())]
    OtherFormat {
        expected: &'static str,
        found: Format,
    },
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

/// The format of a file or directory that another one was expected at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A directory with an OCI image layout.
    OciLayout,
    /// The same in a tar file.
    OciArchive,
    /// The same in a subdirectory of a tar file, with the subdirectory's name.
    OciSubdirectory(String),
    /// A tar file of `docker save`.
    DockerArchive,
    /// The same of a Docker before version 1.10, which has no `manifest.json`.
    OldDockerArchive,
    /// A directory of skopeo's transport `dir:`.
    SkopeoDirectory,
    /// Any other directory.
    Directory,
    /// A regular file, when a directory was expected.
    File,
}

impl Format {
    /// The format of a directory.
    pub(crate) fn of_directory(path: &Path) -> Format {
        let has = |name: &str| path.join(name).is_file();
        match (has("index.json"), has("manifest.json") && has("version")) {
            (true, _) => Format::OciLayout,
            (false, true) => Format::SkopeoDirectory,
            (false, false) => Format::Directory,
        }
    }

    fn name(&self) -> String {
        match self {
            Format::OciLayout => "an OCI image layout directory".into(),
            Format::OciArchive => "an OCI archive".into(),
            Format::OciSubdirectory(directory) => {
                format!("one with an OCI image layout in {}", shown(directory))
            }
            Format::DockerArchive => "a docker-save archive".into(),
            Format::OldDockerArchive => "one of a Docker before 1.10".into(),
            Format::SkopeoDirectory => "a directory of skopeo's transport dir:".into(),
            Format::Directory => "a directory".into(),
            Format::File => "a file".into(),
        }
    }

    /// The prefix of references to an image in this format, if there is one.
    pub(crate) fn prefix(&self) -> Option<&'static str> {
        match self {
            Format::OciLayout => Some("oci:"),
            Format::OciArchive => Some("oci-archive:"),
            Format::DockerArchive => Some("docker-archive:"),
            _ => None,
        }
    }

    /// How to use what is at `path`.
    fn remediation(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Format::OciSubdirectory(directory) => format!(
                "extract it with `tar -xf {path}` and use oci:{}",
                shown(directory)
            ),
            Format::OldDockerArchive => {
                "load it into Docker and save it again with version 1.10 or later".into()
            }
            Format::SkopeoDirectory => {
                format!("convert it with `skopeo copy dir:{path} oci:DIR:TAG` and use oci:DIR:TAG")
            }
            Format::File => format!("use oci-archive:{path} or docker-archive:{path}"),
            Format::Directory => NO_IMAGE.into(),
            Format::OciLayout | Format::OciArchive | Format::DockerArchive => {
                format!("use {}{path}", self.prefix().unwrap_or_default())
            }
        }
    }
}

const NO_IMAGE: &str =
    "use what `skopeo copy`, `podman save`, `docker save` or `buildah push` has written";

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
            ArchiveProblem::UnexpectedFormat(_)
            | ArchiveProblem::OtherFormat { .. }
            | ArchiveProblem::Compressed(_)
            | ArchiveProblem::Tar(TarError::Type { .. }) => ErrorKind::Unsupported,
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
                format!(
                    "decompress it first, or compress it with gzip, zstd, bzip2 or xz instead of {with}"
                )
            }
            ArchiveProblem::OtherFormat { found, .. } => found.remediation(&self.path),
            ArchiveProblem::UnexpectedFormat(_) | ArchiveProblem::Empty => NO_IMAGE.into(),
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
