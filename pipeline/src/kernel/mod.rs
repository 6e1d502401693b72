//! Guest kernels: from the distribution, a file or a URL to two blobs in the store.
//!
//! | question | module |
//! |---|---|
//! | is this file a bootable kernel | [`image`] |
//! | which vmlinux a compressed kernel contains | [`payload`] |
//! | what a kernel package contains | [`package`], [`module`] |
//! | which package the distribution offers | [`apt`] |
//! | how a kernel is downloaded from a URL | [`download`] |
//! | how a kernel is put into the store | [`ingest`] |
//! | which kernel `run` boots without `--kernel` | [`default`] |
//! | how a kernel is built from source | [`build`] |
//! | how the host's programs are run | [`tool`] |
//!
//! The nodes are in `nodes::kernel`.

pub(crate) mod apt;
pub(crate) mod build;
pub(crate) mod default;
pub(crate) mod download;
pub(crate) mod error;
mod image;
pub(crate) mod ingest;
pub(crate) mod module;
pub(crate) mod package;
mod payload;
pub(crate) mod tool;

use std::path::PathBuf;

use microagent_cas::Digest;
use serde::{Deserialize, Serialize};

/// The maximum size of a kernel file or package, in bytes. A vmlinux with all its debugging
/// information is smaller.
pub(crate) const MAX_KERNEL: u64 = 2 << 30;

/// Where a kernel comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSource {
    /// The kernel for virtual machines that the host's distribution offers, through its package
    /// client, without root.
    Distribution,
    /// A file: a bzImage, an ELF vmlinux, or a `.deb` that holds a kernel.
    Path(PathBuf),
    /// The same from an http or https address.
    Url {
        /// The address.
        url: String,
        /// What its bytes must have.
        sha256: Digest,
    },
}

/// A guest kernel in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kernel {
    /// The image: an ELF vmlinux, or a bzImage from which none could be taken.
    pub digest: Digest,
    /// Where the image is.
    #[serde(skip)]
    pub path: PathBuf,
    /// The modules a microVM needs, as a tar of uncompressed `<name>.ko` in load order. `None` when
    /// there are none: all built in, or only an image was given.
    pub modules: Option<Digest>,
    /// The kernel's release, such as `6.1.0-28-cloud-amd64`, where the image tells it.
    pub version: Option<String>,
    /// Where it came from: a package with its version, a path or an address.
    pub source: String,
}
