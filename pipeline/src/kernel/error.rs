//! Errors of guest kernels.

use std::io;
use std::path::PathBuf;

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// How to install a kernel without apt.
const OTHER_SOURCES: &str =
    "install one with microagent kernel install --from PATH, or --url URL --sha256 SUM";

/// A guest kernel could not be obtained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file cannot be opened or read.
    #[error("cannot read the kernel {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not a kernel.
    #[error("{name} is not a Linux kernel: {why}")]
    NotAKernel {
        /// The file, package or URL.
        name: String,
        /// The reason.
        why: String,
    },
    /// A kernel package cannot be used.
    #[error("the kernel package {name} cannot be used: {why}")]
    BadPackage {
        /// The package.
        name: String,
        /// The reason.
        why: String,
    },
    /// A required driver is neither built in nor available as a module.
    #[error("the kernel {kernel} lacks {module}, which a microVM requires")]
    MissingModule {
        /// The kernel's package or release.
        kernel: String,
        /// The module's name.
        module: String,
    },
    /// Required drivers are not built in, and the source contains no modules.
    #[error("the kernel {name} does not have built in what a microVM requires: {}", .drivers.join(", "))]
    MissingDrivers {
        /// The file or URL.
        name: String,
        /// The modules' names.
        drivers: Vec<&'static str>,
    },
    /// The file was written while it was read.
    #[error("the file {} changed while it was read", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A program of the package manager is not installed.
    #[error("{program} is not installed; it is required to install the distribution's kernel")]
    ProgramNotFound {
        /// The program.
        program: &'static str,
    },
    /// The distribution has none of the supported kernel packages.
    #[error("the package sources of this host contain no kernel package (tried {tried})")]
    NoKernelPackage {
        /// The packages tried.
        tried: String,
    },
    /// A program failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// The program and its first arguments.
        program: String,
        /// Its error message, or its exit status.
        detail: String,
    },
    /// A program cannot be started or its output cannot be read.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The URL is invalid.
    #[error("{url:?} is not an http or https URL")]
    BadUrl {
        /// The URL.
        url: String,
    },
    /// The server returned an error.
    #[error("{url} returned status {status}")]
    Status {
        /// The URL.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The transfer failed.
    #[error("cannot download {url}: {detail}")]
    Transfer {
        /// The URL.
        url: String,
        /// The error of the HTTP client.
        detail: String,
    },
    /// The file exceeds the size limit of a kernel.
    #[error("{name} exceeds the maximum kernel size of {limit} bytes")]
    TooLarge {
        /// The file or URL.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The content does not match the expected digest.
    #[error("{name}: digest mismatch: expected {expected}, got {actual}")]
    WrongDigest {
        /// The file, package or URL.
        name: String,
        /// The expected digest.
        expected: microagent_cas::Digest,
        /// The digest of the content.
        actual: microagent_cas::Digest,
    },
}

impl Diagnosis for KernelError {
    fn kind(&self) -> ErrorKind {
        match self {
            KernelError::Unreadable { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            KernelError::NotAKernel { .. }
            | KernelError::BadPackage { .. }
            | KernelError::MissingModule { .. }
            | KernelError::MissingDrivers { .. }
            | KernelError::TooLarge { .. } => ErrorKind::Unsupported,
            KernelError::ProgramNotFound { .. } | KernelError::Start { .. } => ErrorKind::Host,
            KernelError::NoKernelPackage { .. } => ErrorKind::NotFound,
            KernelError::Program { .. } => ErrorKind::Unreachable,
            KernelError::BadUrl { .. } => ErrorKind::Usage,
            KernelError::Status {
                status: 404 | 410, ..
            } => ErrorKind::NotFound,
            KernelError::Status {
                status: 401 | 403, ..
            } => ErrorKind::Unauthorized,
            KernelError::Status { .. } | KernelError::Transfer { .. } => ErrorKind::Unreachable,
            KernelError::WrongDigest { .. } => ErrorKind::Corrupt,
            KernelError::Changed { .. } => ErrorKind::Conflict,
        }
    }

    fn retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unreachable | ErrorKind::Conflict)
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            KernelError::NotAKernel { .. } => {
                "use a bzImage or an ELF vmlinux for x86-64, or a .deb that contains one".to_owned()
            }
            KernelError::ProgramNotFound { .. } => OTHER_SOURCES.to_owned(),
            // apt-get update succeeds without a network.
            KernelError::NoKernelPackage { .. } => {
                format!("check the network and /etc/apt, or {OTHER_SOURCES}")
            }
            KernelError::Program { program, .. } if program.starts_with("apt") => {
                format!("check the network and /etc/apt, or {OTHER_SOURCES}")
            }
            KernelError::WrongDigest { .. } => {
                "check the digest; the file may have been replaced or damaged".to_owned()
            }
            KernelError::MissingDrivers { .. } => {
                "install the kernel's package (.deb), which has them as modules, or a kernel for \
                 microVMs: microagent kernel build"
                    .to_owned()
            }
            KernelError::Changed { .. } => "try again when nothing writes to it".to_owned(),
            KernelError::MissingModule { .. } => {
                "use a kernel for cloud or virtual machines, such as linux-image-cloud-amd64"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// The error of storing a kernel.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum KernelFailure {
    Store(#[from] StoreError),
    Kernel(#[from] KernelError),
}
