//! Why a kernel could not be built.

use std::io;
use std::path::{Path, PathBuf};

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::kernel::error::{KernelError, KernelFailure};

/// Why a kernel could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelBuildError {
    /// A file cannot be opened, read or written.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// What should hold a kernel's source does not.
    #[error("{name} cannot be used as the source of a kernel: {why}")]
    BadSource {
        /// The file or package.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The distribution does not offer the source.
    #[error("the package sources of this host offer no {package}")]
    NoSourcePackage {
        /// The package.
        package: &'static str,
    },
    /// A program or a library that the build needs is missing.
    #[error("building a kernel needs {missing}, which this host does not have")]
    MissingTool {
        /// The program, or the header of the library.
        missing: &'static str,
        /// The distribution's package that has it.
        package: &'static str,
    },
    /// A fragment has a line that is none.
    #[error("{name}, line {number}: {text:?} is neither an option nor a comment")]
    BadFragment {
        /// The fragment.
        name: String,
        /// The line, counted from 1.
        number: usize,
        /// What stands there.
        text: String,
    },
    /// The kernel's configuration does not do what a fragment asks for.
    #[error("{option} was asked to be {asked}, but the configuration made it {got}")]
    OptionDropped {
        /// The option.
        option: String,
        /// The value that was asked for.
        asked: String,
        /// The value it got; `n` is also what an option has that this source does not know.
        got: String,
    },
    /// The kernel's own build failed.
    #[error("make {target} failed: {detail}")]
    Make {
        /// What was to be made.
        target: &'static str,
        /// The line that tells most.
        detail: String,
        /// Where all that make said is.
        log: PathBuf,
    },
    /// A program cannot be run, or says nothing of use.
    #[error("cannot learn which {program} this is")]
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
                "give a linux-*.tar.xz, or Debian's package linux-source-6.1".to_owned()
            }
            KernelBuildError::NoSourcePackage { .. } => {
                "bring the source: --source linux-6.1.N.tar.xz, as kernel.org has it".to_owned()
            }
            KernelBuildError::MissingTool { package, .. } => {
                format!("apt-get install {package}")
            }
            KernelBuildError::BadFragment { .. } => {
                "write CONFIG_NAME=value or # CONFIG_NAME is not set".to_owned()
            }
            KernelBuildError::OptionDropped { .. } => {
                "another option decides it, or this source does not know it: see its `depends on` \
                 in the kernel's Kconfig files"
                    .to_owned()
            }
            KernelBuildError::Make { log, .. } => format!("see {}", log.display()),
            _ => return None,
        })
    }
}

/// Why a build of a kernel failed: an error of its own, or of what it calls.
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
