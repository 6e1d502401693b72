//! The build pipeline: from an image reference to something that boots.
//!
//! Every step is a node: named by the digest of its inputs, computed at most
//! once, its output a blob of the store ([`microagent_cas`]).
//!
//! ```text
//! Reference ─resolve─▶ Image ─fetch─▶ layers ─unpack─▶ tar + index ─rootfs─▶ ext4
//! tar ─bundle─▶ ext4
//! ```
//!
//! | question | module |
//! |---|---|
//! | what a person may type for an image | `reference` ([`Reference`]) |
//! | where images come from | `source`: registries ([`Registries`]), OCI layouts, archives |
//! | what a reference means now, and its name in the store | `resolve`, `manifest` ([`Image`]) |
//! | how a layer gets here and becomes tar and index | `layer`, `shipped_tar`, `decompress`, `feed`, `tar_reader`, `pax`, `index` |
//! | what layers add up to, and what is refused | `merge`, `tree`, `xattr` ([`MergeError`]) |
//! | how that becomes a file system | `rootfs`, `ext4`, `raw_names`, `mke2fs` ([`Rootfs`]) |
//! | how a tar becomes a disk of its own | `bundle` ([`Bundle`]) |
//! | where the guest's kernel and initramfs come from | `kernel`, `initramfs` |
//! | what has changed since, outside and inside | `drift`, `local_file`, `explain` ([`DriftReport`], [`Step`]) |
//! | how a node is found or computed | `node`, `pipeline` ([`Pipeline`]) |
//! | what went wrong, and what to do about it | `error` ([`Error`], [`Diagnosis`]) |
//! | what happens meanwhile | `progress` ([`Progress`]) |

mod bundle;
mod decompress;
mod drift;
mod entry;
mod error;
mod explain;
mod ext4;
mod feed;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image_archive;
mod index;
mod initramfs;
mod kernel;
mod layer;
mod local_file;
mod manifest;
mod merge;
mod mke2fs;
mod node;
mod pax;
mod pipeline;
mod progress;
mod raw_names;
mod reference;
mod resolve;
mod rootfs;
mod shipped_tar;
mod source;
mod tar_reader;
mod tree;
mod xattr;

pub use bundle::{Bundle, BundleError, BundleOptions};
pub use drift::{Drift, DriftReport, DriftState};
pub use error::{Diagnosis, Error, ErrorKind};
pub use explain::Step;
pub use image_archive::ImageArchiveError;
pub use initramfs::{Initramfs, InitramfsError};
pub use kernel::{BuiltKernel, Kernel, KernelBuild, KernelBuildError, KernelError, KernelSource};
pub use layer::LayerError;
pub use manifest::{ImageConfig, LayerDescriptor, ManifestError, PLATFORM};
pub use merge::{MergeError, MergeProblem};
pub use mke2fs::Mke2fsError;
pub use node::{NodeOutcome, NodeSpec};
pub use pipeline::{NodeReport, Pipeline};
pub use progress::{Event, Progress, Silent, Stage};
pub use reference::{Reference, ReferenceError, ReferenceProblem, RegistryReference, Selector};
pub use resolve::Image;
pub use rootfs::{HEADROOM_MIB, Rootfs, RootfsError, RootfsOptions};
pub use source::{
    ArchiveError, ArchiveProblem, Registries, RegistriesError, RegistriesProblem, RegistryError,
    RegistryProblem,
};
pub use tar_reader::TarError;
