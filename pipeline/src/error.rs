//! What can go wrong in the pipeline, and what every error can say about
//! itself: its kind (for scripts and exit codes), the way out (for people),
//! and whether the same call may work in a minute.

use microagent_cas::StoreError;

use crate::disk::mke2fs::Mke2fsError;
use crate::image::manifest::ManifestError;
pub use crate::image::reference::ReferenceError;
pub use crate::kernel::{KernelBuildError, KernelError};
use crate::nodes::bundle::BundleError;
use crate::nodes::image_archive::ImageArchiveError;
pub use crate::nodes::initramfs::InitramfsError;
use crate::nodes::layer::LayerError;
use crate::nodes::rootfs::RootfsError;
use crate::source::{ArchiveError, RegistriesError, RegistryError};
use crate::tree::merge::MergeError;

/// The kinds of failure: a closed list, documented in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What was asked for does not make sense.
    Usage,
    /// What was named does not exist.
    NotFound,
    /// The other side wants (other) credentials.
    Unauthorized,
    /// The other side cannot be reached or broke off.
    Unreachable,
    /// Bytes are not what they should be.
    Corrupt,
    /// It is well-formed, but outside of what this program does.
    Unsupported,
    /// The size that was asked for does not hold the content.
    TooSmall,
    /// The disk or a quota is full.
    NoSpace,
    /// The operating system refuses.
    Permission,
    /// Something else holds what is needed.
    Conflict,
    /// A signal ended it.
    Interrupted,
    /// The host lacks something.
    Host,
    /// The guest failed.
    Guest,
    /// It took too long.
    Timeout,
    /// A fault of this program.
    Internal,
}

impl ErrorKind {
    /// The kind as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::NotFound => "notFound",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::TooSmall => "tooSmall",
            ErrorKind::NoSpace => "noSpace",
            ErrorKind::Permission => "permission",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Interrupted => "interrupted",
            ErrorKind::Host => "host",
            ErrorKind::Guest => "guest",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
        }
    }
}

/// What an error says about itself beside its message.
pub trait Diagnosis {
    /// Its kind.
    fn kind(&self) -> ErrorKind;

    /// The way out, as one line to print after the message, where there is one.
    fn remediation(&self) -> Option<String> {
        None
    }

    /// Whether the same call may succeed later without anybody doing anything.
    fn retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
    }
}

impl Diagnosis for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            StoreError::NoSpace(_) => ErrorKind::NoSpace,
            StoreError::ReadOnly(_) | StoreError::Permission(_) => ErrorKind::Permission,
            StoreError::Mismatch { .. } | StoreError::Corrupt { .. } => ErrorKind::Corrupt,
            StoreError::NewerFormat { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Host,
        }
    }

    fn remediation(&self) -> Option<String> {
        StoreError::remediation(self)
    }
}

/// Builds [`Error`] from one list: a variant, the module's error it carries.
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident($source:ty),)+) => {
        /// Why a pipeline operation failed. Each variant is one module's error
        /// and speaks for itself.
        #[derive(Debug, thiserror::Error)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[$doc])* #[error(transparent)] $variant(#[from] $source),)+
        }

        impl Error {
            fn diagnosis(&self) -> &dyn Diagnosis {
                match self {
                    $(Error::$variant(error) => error,)+
                }
            }
        }
    };
}

errors! {
    /// A text is not an image reference.
    Reference(ReferenceError),
    /// The store could not do its part.
    Store(StoreError),
    /// A registry did not give what it was asked for.
    Registry(RegistryError),
    /// The file about registries cannot be used.
    Registries(RegistriesError),
    /// An archive or a layout on disk cannot be used.
    Archive(ArchiveError),
    /// An image's documents cannot be used.
    Manifest(ManifestError),
    /// A layer could not be brought here or unpacked.
    Layer(LayerError),
    /// A layer cannot be added to the tree.
    Merge(MergeError),
    /// A tree cannot become a file system.
    Rootfs(RootfsError),
    /// A tar bundle cannot become a disk.
    Bundle(BundleError),
    /// The host's `mke2fs` or `debugfs` could not do its part.
    Mke2fs(Mke2fsError),
    /// A guest kernel could not be had.
    Kernel(KernelError),
    /// A guest kernel could not be built.
    KernelBuild(KernelBuildError),
    /// An initramfs could not be made.
    Initramfs(InitramfsError),
    /// An image could not be exported or imported.
    ImageArchive(ImageArchiveError),
}

impl Error {
    /// The error's kind.
    pub fn kind(&self) -> ErrorKind {
        self.diagnosis().kind()
    }

    /// The way out, where there is one.
    pub fn remediation(&self) -> Option<String> {
        self.diagnosis().remediation()
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        self.diagnosis().retryable()
    }
}
