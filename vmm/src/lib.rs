//! The monitor: two engines that run vCPUs, one set of virtio devices, one supervisor process.
//!
//! | module | what it answers |
//! |---|---|
//! | [`engine`] | how vCPUs are run: on KVM, or by QEMU |
//! | [`boot`] | where kernel, initramfs, command line and machine tables go in guest memory |
//! | [`vhost_user`] | how another process reaches the devices |
//! | [`virtio`] | what the devices do |
//! | [`console`] | where console output goes |
//! | [`probe`] | what this host can run |
//! | [`supervisor`] | how one process runs one VM, and what it tells its caller |
//!
//! The crate knows no images and no store: it boots what it is told to
//! ([`microagent_proto::control::VmConfig`]).

pub mod boot;
pub mod console;
pub mod engine;
pub mod probe;
pub mod supervisor;
pub mod vhost_user;
pub mod virtio;

/// What the fuzz targets in `fuzz/` call. Not part of the API.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::virtio::mmio::hostile::{block, net, registers, rng, vsock};
}
