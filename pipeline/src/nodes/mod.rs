//! The nodes, one module each: what the key of a node is made of, and how its outputs are computed.

pub(crate) mod bundle;
pub(crate) mod image_archive;
pub(crate) mod initramfs;
pub(crate) mod kernel;
pub(crate) mod layer;
pub(crate) mod local_file;
pub(crate) mod resolve;
pub(crate) mod rootfs;
pub(crate) mod snapshot;
