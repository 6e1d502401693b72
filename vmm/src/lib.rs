//! The monitor: two engines that run vCPUs, one set of virtio devices, one supervisor process.
//!
//! | module | what it answers |
//! |---|---|
//! | [`engine`] | how vCPUs are run: on KVM, or by QEMU |
//! | [`boot`] | where kernel, initramfs, command line and machine tables go in guest memory |
//! | [`virtio`] | what the devices do |
//! | [`console`] | where console output goes |
//!
//! The crate knows no images and no store: it boots what it is told to
//! ([`microagent_proto::control::VmConfig`]).

pub mod boot;
pub mod console;
pub mod engine;
pub mod probe;
pub mod virtio;
