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
//! Modules from the top floor down; each imports only lower ones (or its own children).
//!
//! | floor | modules | questions |
//! |---|---|---|
//! | 1 | `pipeline`, `error` | the public handle ([`Pipeline`]), every failure ([`Error`]) |
//! | 2 | `report` | what changed since, outside and inside ([`DriftReport`], [`Step`]) |
//! | 3 | `nodes` | what each node is made of, and how it is computed |
//! | 4 | `source` | where images come from: registries ([`Registries`]), OCI layouts, archives |
//! |   | `disk` | how a tree becomes a file system: `ext4`, `mke2fs` |
//! | 5 | `image` | references ([`Reference`]), manifests and configurations |
//! |   | `kernel` | where the guest's kernel comes from ([`KernelSource`]) |
//! |   | `tree` | what layers add up to, and what is refused ([`MergeError`]) |
//! | 6 | `engine` | how a node is found or computed; progress ([`Progress`]) |
//! |   | `tar` | how a compressed tar becomes members and an index ([`TarError`]) |
//! | 7 | `diagnosis` | kind, remediation and retryability of a failure ([`Diagnosis`]) |

mod diagnosis;
mod disk;
mod engine;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod kernel;
mod nodes;
mod pipeline;
mod report;
mod source;
mod tar;
mod tree;

pub use self::tar::reader::TarError;
pub use diagnosis::{Diagnosis, ErrorKind};
pub use disk::HEADROOM_MIB;
pub use disk::error::{DiskError, Mke2fsError};
pub use engine::NodeReport;
pub use engine::node::{NodeOutcome, NodeSpec};
pub use engine::progress::{Event, Progress, Silent, Stage};
pub use error::Error;
pub use image::manifest::{ImageConfig, LayerDescriptor, ManifestError, PLATFORM};
pub use image::reference::{
    Reference, ReferenceError, ReferenceProblem, RegistryReference, Selector,
};
pub use kernel::build::error::KernelBuildError;
pub use kernel::error::KernelError;
pub use kernel::{Kernel, KernelSource};
pub use nodes::bundle::{Bundle, BundleError, BundleOptions};
pub use nodes::image_archive::ImageArchiveError;
pub use nodes::initramfs::{Initramfs, InitramfsError};
pub use nodes::kernel::build::{BuiltKernel, KernelBuild};
pub use nodes::layer::LayerError;
pub use nodes::resolve::Image;
pub use nodes::rootfs::{Rootfs, RootfsError, RootfsOptions};
pub use pipeline::Pipeline;
pub use report::drift::{Drift, DriftReport, DriftState};
pub use report::explain::Step;
pub use source::{
    ArchiveError, ArchiveProblem, Registries, RegistriesError, RegistriesProblem, RegistryError,
    RegistryProblem,
};
pub use tree::merge::{MergeError, MergeProblem};
