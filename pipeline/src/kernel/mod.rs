//! Guest kernels from the distribution, a file or a URL, stored as an image and its modules.
//!
//! | subject | module |
//! |---|---|
//! | identification of bootable kernels | [`image`] |
//! | the vmlinux in a compressed kernel | [`payload`] |
//! | drivers and entry points of a kernel | [`contents`] |
//! | kernel packages and their modules | [`package`], [`module`] |
//! | the content of a modules disk | [`module_files`], [`module_index`] |
//! | the distribution's package | [`apt`] |
//! | download from a URL | [`download`] |
//! | copies of local files | [`local_copy`] |
//! | storage | [`ingest`] |
//! | the default kernel of `run` | [`default`] |
//! | building from source | [`build`] |
//! | running programs of the host | [`tool`] |
//!
//! The nodes are in `nodes::kernel`.

pub(crate) mod apt;
pub(crate) mod build;
mod contents;
pub(crate) mod default;
pub(crate) mod download;
pub(crate) mod error;
mod image;
pub(crate) mod ingest;
pub(crate) mod local_copy;
pub(crate) mod module;
pub(crate) mod module_files;
mod module_index;
pub(crate) mod package;
mod payload;
pub(crate) mod tool;

use std::path::PathBuf;

use microagent_cas::Digest;
use serde::{Deserialize, Serialize};

/// The maximum size of a kernel file or package, in bytes. A vmlinux with all its debugging
/// information is smaller.
pub(crate) const MAX_KERNEL: u64 = 2 << 30;

/// The source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The kernel for virtual machines of the host's distribution, downloaded with its package
    /// manager, without root.
    Distribution,
    /// A file: a bzImage, an ELF vmlinux, or a `.deb` that contains a kernel.
    Path(PathBuf),
    /// Such a file at an http or https URL.
    Url {
        /// The URL.
        url: String,
        /// The required digest.
        sha256: Digest,
    },
}

/// A guest kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// The image: an ELF vmlinux, or a bzImage from which none could be extracted.
    pub digest: Digest,
    /// The path of the image.
    #[serde(skip)]
    pub path: PathBuf,
    /// The modules a microVM requires, as a tar of uncompressed `<name>.ko` in load order. `None`
    /// if all are built in, or if the source was an image without modules.
    pub modules: Option<Digest>,
    /// A disk with all modules of the kernel and their indexes, to be mounted at
    /// `/lib/modules/RELEASE`: the digest of its chunk map. `None` if the source has no modules.
    #[serde(default)]
    pub modules_disk: Option<Digest>,
    /// The kernel's release, such as `6.1.0-28-cloud-amd64`, if the image contains it.
    pub version: Option<String>,
    /// Its source: packages with versions, a path or a URL.
    pub source: String,
}
