//! Why a guest kernel could not be had.

use std::io;
use std::path::PathBuf;

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// Where a kernel without a package client comes from.
const OTHER_SOURCES: &str =
    "bring one: microagent kernel install --from PATH, or --url URL --sha256 SUM";

/// Why a guest kernel could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The file cannot be opened or read.
    #[error("cannot read the kernel {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// The file is something else.
    #[error("{name} is not a Linux kernel: {why}")]
    NotAKernel {
        /// The file, package or address.
        name: String,
        /// What gives it away.
        why: String,
    },
    /// A package that should hold a kernel cannot be used.
    #[error("the kernel package {name} cannot be used: {why}")]
    BadPackage {
        /// The package.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel has a driver neither built in nor as a module.
    #[error("the kernel {kernel} has no {module}, which a microVM needs")]
    MissingModule {
        /// The kernel's package or release.
        kernel: String,
        /// The module's name.
        module: String,
    },
    /// The distribution's package client is not there.
    #[error("this host has no {program}, so its distribution's kernel cannot be fetched")]
    NoPackageClient {
        /// The program.
        program: &'static str,
    },
    /// The distribution offers none of the kernels that are known to fit.
    #[error("the package sources of this host offer no kernel package ({tried})")]
    NoKernelPackage {
        /// The packages asked for.
        tried: String,
    },
    /// A program failed.
    #[error("{program} failed: {detail}")]
    Program {
        /// The program and what it was asked to do.
        program: String,
        /// The last error it printed, or how it ended.
        detail: String,
    },
    /// A program cannot be started or its output cannot be read.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// What the operating system answered.
        #[source]
        source: io::Error,
    },
    /// The address is none that a kernel can be fetched from.
    #[error("{url:?} is not an http or https address")]
    BadUrl {
        /// The address.
        url: String,
    },
    /// The server did not hand the file out.
    #[error("{url} answered {status}")]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The transfer failed.
    #[error("cannot fetch {url}: {detail}")]
    Transfer {
        /// The address.
        url: String,
        /// What the client says.
        detail: String,
    },
    /// More bytes than any kernel has.
    #[error("{name} is larger than {limit} bytes, which no kernel is")]
    TooLarge {
        /// The file or address.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The bytes have another digest than the one asked for.
    #[error("{name} has digest {actual}, not {expected}")]
    WrongDigest {
        /// The file, package or address.
        name: String,
        /// What was asked for.
        expected: microagent_cas::Digest,
        /// What came.
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
            | KernelError::TooLarge { .. } => ErrorKind::Unsupported,
            KernelError::NoPackageClient { .. } | KernelError::Start { .. } => ErrorKind::Host,
            KernelError::NoKernelPackage { .. } => ErrorKind::NotFound,
            KernelError::Program { .. } => ErrorKind::Unreachable,
            KernelError::BadUrl { .. } => ErrorKind::Usage,
            KernelError::Refused {
                status: 404 | 410, ..
            } => ErrorKind::NotFound,
            KernelError::Refused {
                status: 401 | 403, ..
            } => ErrorKind::Unauthorized,
            KernelError::Refused { .. } | KernelError::Transfer { .. } => ErrorKind::Unreachable,
            KernelError::WrongDigest { .. } => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            KernelError::NotAKernel { .. } => {
                "give a bzImage or an ELF vmlinux for x86-64, or a .deb that holds one".to_owned()
            }
            KernelError::NoPackageClient { .. } | KernelError::NoKernelPackage { .. } => {
                OTHER_SOURCES.to_owned()
            }
            KernelError::Program { program, .. } if program.starts_with("apt") => {
                format!("check the network and /etc/apt, or {OTHER_SOURCES}")
            }
            KernelError::WrongDigest { .. } => {
                "check the digest; the file may have been replaced or damaged".to_owned()
            }
            KernelError::MissingModule { .. } => {
                "use a kernel for cloud or virtual machines, such as linux-image-cloud-amd64"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// Why a kernel could not be put into the store.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum KernelFailure {
    Store(#[from] StoreError),
    Kernel(#[from] KernelError),
}
