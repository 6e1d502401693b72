//! The monitor: two engines that run vCPUs, one set of virtio devices, one supervisor process.
//!
//! | module | contents |
//! |---|---|
//! | [`engine`] | running vCPUs: on KVM, or in QEMU |
//! | [`boot`] | kernel, initramfs, command line and firmware tables in guest memory |
//! | [`vhost_user`] | serving devices to another process |
//! | [`virtio`] | the devices |
//! | [`console`] | the guest's console output |
//! | [`snapshot`] | the file with the state of a VM |
//! | [`probe`] | what this host can run |
//! | [`supervisor`] | the process that runs one VM, and its control socket |
//!
//! The crate does not depend on images or the store: a VM is described completely by
//! [`microagent_proto::control::VmConfig`].

pub mod boot;
pub mod console;
pub mod engine;
pub mod probe;
pub mod snapshot;
pub mod supervisor;
pub mod vhost_user;
pub mod virtio;

/// Entry points of the fuzz targets in `fuzz/`. Not part of the API.
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing {
    pub use crate::engine::kvm::hostile::state_file;
    pub use crate::virtio::mmio::hostile::{block, net, registers, restored, rng, vsock};
}
