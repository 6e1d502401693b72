//! Virtio devices, written once and served over two transports.
//!
//! A device ([`VirtioDevice`]) knows its virtqueues and guest memory and nothing of how it was
//! reached. [`DeviceIo`] is what a transport lends it for the length of one event:
//!
//! - on engine `kvm` the transport is virtio-mmio, each device with a thread of its own;
//! - on engine `qemu` it is a vhost-user back-end that QEMU's front-end device speaks to.
//!
//! The guest is not trusted. A ring that is broken is a [`DeviceError`]; a request that is broken
//! is answered, or handed back unanswered where it has no place for an answer ([`chain`]). Guest
//! memory is reached through checked slices only ([`Segments`]).

pub mod block;
pub mod chain;
mod device;
pub mod interrupts;
pub mod mmio;
pub mod net;
pub mod rng;
mod segments;
mod serve;
#[cfg(any(test, feature = "fuzzing"))]
mod testing;
pub mod vsock;

pub use device::{DeviceError, DeviceIo, VirtioDevice};
pub use segments::Segments;
