//! Virtio devices, written once and served over two transports.
//!
//! A device ([`VirtioDevice`]) knows its virtqueues and guest memory and nothing of how it was
//! reached. [`DeviceIo`] is what a transport lends it for the length of one event:
//!
//! - on engine `kvm` the transport is virtio-mmio, each device with a thread of its own;
//! - on engine `qemu` it is a vhost-user back-end that QEMU's front-end device speaks to.

mod device;

pub use device::{DeviceError, DeviceIo, VirtioDevice};
