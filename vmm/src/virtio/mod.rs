//! Virtio devices, written once and served over two transports.
//!
//! A device ([`VirtioDevice`]) knows its virtqueues and guest memory, but not its transport. The
//! transport lends it a [`DeviceIo`] while it handles an event:
//!
//! - on engine `kvm` the transport is virtio-mmio, with a thread for each device ([`mmio`]);
//! - on engine `qemu` it is a vhost-user back end, connected to QEMU's front-end device
//!   ([`vhost_user`](crate::vhost_user)).
//!
//! The guest is not trusted. An invalid ring is a [`DeviceError`]; an invalid request completes
//! with an error status, or without one if it has no room for a status ([`chain`]). Devices access
//! guest memory only through checked slices ([`Segments`]).

pub mod block;
pub mod chain;
mod device;
pub mod interrupts;
mod mailbox;
pub mod mmio;
pub mod net;
mod queue_state;
pub mod rng;
mod segments;
mod serve;
#[cfg(any(test, feature = "fuzzing"))]
mod testing;
pub mod vsock;

pub use device::{DeviceError, DeviceIo, VirtioDevice};
pub(crate) use queue_state::describe as describe_queue;
pub use segments::Segments;
