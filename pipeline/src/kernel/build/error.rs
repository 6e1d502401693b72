//! Errors of building a kernel.

use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::kernel::error::{KernelError, KernelFailure};

/// A kernel could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelBuildError {
    /// A file cannot be opened, read or written.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// The failed operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A file or package is not a kernel source.
    #[error("cannot use {name} as a kernel source: {why}")]
    BadSource {
        /// The file or package.
        name: String,
        /// The reason.
        why: String,
    },
    /// The distribution does not have the source package.
    #[error("the package sources of this host do not contain {package}")]
    NoSourcePackage {
        /// The package.
        package: &'static str,
    },
    /// A program or library that the build requires is missing.
    #[error("building a kernel requires {missing}, which is not installed")]
    MissingTool {
        /// The program, or the header of the library.
        missing: &'static str,
        /// The distribution's package that contains it.
        package: &'static str,
    },
    /// A fragment has an invalid line.
    #[error("{name}, line {number}: {text:?} is neither an option nor a comment")]
    BadFragment {
        /// The fragment.
        name: String,
        /// The line, counted from 1.
        number: usize,
        /// Its text.
        text: String,
    },
    /// The kernel's configuration changed an option of a fragment.
    #[error("{option}={requested} was not applied; the resulting configuration has {actual}")]
    OptionDropped {
        /// The option.
        option: String,
        /// The requested value.
        requested: String,
        /// The resulting value; `n` also for an option that this source does not have.
        actual: String,
    },
    /// The kernel's own build failed.
    #[error("make {target} failed: {detail}")]
    Make {
        /// The target.
        target: &'static str,
        /// The most relevant line of the output.
        detail: String,
        /// The file with the complete output.
        log: PathBuf,
    },
    /// A program cannot be run, or does not print its version.
    #[error("cannot determine the version of {program}")]
    Unidentified {
        /// The program.
        program: String,
    },
}

impl Diagnosis for KernelBuildError {
    fn kind(&self) -> ErrorKind {
        match self {
            KernelBuildError::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Host,
            },
            KernelBuildError::BadSource { .. } => ErrorKind::Unsupported,
            KernelBuildError::NoSourcePackage { .. } => ErrorKind::NotFound,
            KernelBuildError::BadFragment { .. } | KernelBuildError::OptionDropped { .. } => {
                ErrorKind::Usage
            }
            KernelBuildError::MissingTool { .. }
            | KernelBuildError::Make { .. }
            | KernelBuildError::Unidentified { .. } => ErrorKind::Host,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            KernelBuildError::BadSource { .. } => {
                "use Debian's package linux-source-6.1 (.deb), or a linux-6.1.N.tar.xz from kernel.org".to_owned()
            }
            KernelBuildError::NoSourcePackage { .. } => {
                "use --source with Debian's package linux-source-6.1 (.deb), or a linux-6.1.N.tar.xz from kernel.org".to_owned()
            }
            KernelBuildError::MissingTool { package, .. } => {
                format!("apt-get install {package}")
            }
            KernelBuildError::BadFragment { .. } => {
                "write CONFIG_NAME=value or # CONFIG_NAME is not set".to_owned()
            }
            KernelBuildError::OptionDropped { .. } => {
                "another option overrides it, or this source does not have it; see its `depends on` \
                 in the kernel's Kconfig files"
                    .to_owned()
            }
            KernelBuildError::Make { log, .. } => format!("see {}", log.display()),
            _ => return None,
        })
    }
}

/// The error of a kernel build or of a module it uses.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum KernelBuildFailure {
    Store(#[from] StoreError),
    /// A program of the host failed.
    Tool(#[from] KernelError),
    Kernel(#[from] KernelFailure),
    Build(#[from] KernelBuildError),
}

/// Converts a failed system call on a file: `action` (open, read, write) on `path`.
pub(crate) fn file(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> KernelBuildError {
    let path = path.to_owned();
    move |source| KernelBuildError::File {
        action,
        path,
        source,
    }
}
