//! The errors of the whole crate in one enum, for callers. No module below
//! `pipeline` uses it: a module returns its own `…Error`, or a crate-private
//! `…Failure` that is its own error or the error of something it calls.

use microagent_cas::StoreError;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::disk::error::{DiskError, Mke2fsError};
use crate::image::manifest::ManifestError;
use crate::image::reference::ReferenceError;
use crate::kernel::build::error::{KernelBuildError, KernelBuildFailure};
use crate::kernel::error::{KernelError, KernelFailure};
use crate::nodes::bundle::{BundleError, BundleFailure};
use crate::nodes::image_archive::{ImageArchiveError, ImageArchiveFailure};
use crate::nodes::initramfs::{InitramfsError, InitramfsFailure};
use crate::nodes::layer::{LayerError, LayerFailure};
use crate::nodes::resolve::ResolveFailure;
use crate::nodes::rootfs::{RootfsError, RootfsFailure};
use crate::source::{ArchiveError, RegistriesError, RegistryError, SourceFailure};
use crate::tree::merge::MergeError;

/// Generates [`Error`] from a list of variants and the errors they hold.
macro_rules! errors {
    ($($(#[$doc:meta])* $variant:ident($source:ty),)+) => {
        /// Why a pipeline operation failed. Each variant holds the error of one
        /// module, which determines the message and the diagnosis.
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
    /// The store failed.
    Store(StoreError),
    /// A registry cannot be used.
    Registry(RegistryError),
    /// The registries file cannot be used.
    Registries(RegistriesError),
    /// An archive or a layout on disk cannot be used.
    Archive(ArchiveError),
    /// An image's documents cannot be used.
    Manifest(ManifestError),
    /// A layer could not be fetched or unpacked.
    Layer(LayerError),
    /// A layer cannot be added to the tree.
    Merge(MergeError),
    /// A stored layer is damaged.
    Rootfs(RootfsError),
    /// A tree cannot be converted to a file system.
    Disk(DiskError),
    /// A tar cannot be converted to a disk.
    Bundle(BundleError),
    /// The host's `mke2fs` or `debugfs` failed.
    Mke2fs(Mke2fsError),
    /// A guest kernel could not be obtained.
    Kernel(KernelError),
    /// A guest kernel could not be built.
    KernelBuild(KernelBuildError),
    /// An initramfs could not be built.
    Initramfs(InitramfsError),
    /// An image could not be exported or imported.
    ImageArchive(ImageArchiveError),
}

/// Converts the `…Failure` of each module to the variant of its cause.
macro_rules! flatten {
    ($($failure:ident { $($variant:ident),+ $(,)? })+) => {$(
        impl From<$failure> for Error {
            fn from(failure: $failure) -> Error {
                match failure {
                    $($failure::$variant(error) => error.into(),)+
                }
            }
        }
    )+};
}

flatten! {
    SourceFailure { Store, Registry, Archive, Manifest }
    ResolveFailure { Store, Source, Manifest }
    LayerFailure { Store, Source, Manifest, Layer }
    RootfsFailure { Store, Layer, Merge, Rootfs, Disk, Mke2fs }
    BundleFailure { Store, Bundle }
    InitramfsFailure { Store, Initramfs }
    KernelFailure { Store, Kernel }
    KernelBuildFailure { Store, Tool, Kernel, Build }
    ImageArchiveFailure { Store, Archive, Source, Resolve, Manifest, Layer, ImageArchive }
}

impl Error {
    /// The error's kind.
    pub fn kind(&self) -> ErrorKind {
        self.diagnosis().kind()
    }

    /// How to fix it, if there is a way.
    pub fn remediation(&self) -> Option<String> {
        self.diagnosis().remediation()
    }

    /// Whether the same call may succeed later without any change.
    pub fn retryable(&self) -> bool {
        self.diagnosis().retryable()
    }
}
