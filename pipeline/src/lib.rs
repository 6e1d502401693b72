//! The build pipeline: from an image reference to something bootable.
//!
//! Every step is a node: it is named by the digest of its inputs, computed at
//! most once, and its output is a blob of the store ([`microagent_cas`]).
//!
//! ```text
//! Reference ─resolve─▶ Image ─fetch─▶ layers ─unpack─▶ tar + index ─rootfs─▶ ext4
//! tar ─bundle─▶ ext4
//! kernel, initramfs ─snapshot─▶ a booted VM
//! ```
//!
//! The modules are on floors, from the top; each imports only from lower floors
//! and from itself (docs/architecture.md, which a test reads).
//!
//! | floor | module | contents |
//! |---|---|---|
//! | 1 | `pipeline` | the public handle ([`Pipeline`]) |
//! | 2 | `error` | every error in one enum ([`Error`]) |
//! | 3 | `report` | changed inputs ([`DriftReport`]), the nodes of an image ([`Step`]) |
//! | 4 | `nodes` | the nodes: their keys and how their outputs are computed |
//! | 5 | `source` | where images come from: registries ([`Registries`]), OCI layouts, archives |
//! |   | `disk` | file system images: the built-in ext4 writer and mke2fs |
//! | 6 | `kernel` | guest kernels: images, packages, downloads, builds ([`KernelSource`]) |
//! | 7 | `net` | HTTP clients: trust, proxies, redirects |
//! | 8 | `image` | references ([`Reference`]), manifests, configurations |
//! |   | `tree` | the merged tree of layers ([`MergeError`]) |
//! | 9 | `engine` | finding or computing a node ([`NodeSpec`]), progress ([`Progress`]) |
//! |   | `tar` | from a compressed tar to members and an index ([`TarError`]) |
//! | 10 | `diagnosis` | kind and remediation of an error ([`Diagnosis`]) |

mod diagnosis;
mod disk;
mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod kernel;
mod net;
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
pub use image::manifest::{
    ImageConfig, LayerDescriptor, ManifestError, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_MANIFEST,
};
pub use image::platform::{CpuLevel, GuestCpu, PLATFORM};
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
pub use nodes::snapshot::{Snapshot, SnapshotInputs};
pub use pipeline::Pipeline;
pub use report::drift::{Drift, DriftReport, DriftState};
pub use report::explain::Step;
pub use source::{
    ArchiveError, ArchiveFormat, ArchiveProblem, Registries, RegistriesError, RegistriesProblem,
    RegistryError, RegistryProblem, Upstream,
};
pub use tree::merge::{MergeError, MergeProblem};
