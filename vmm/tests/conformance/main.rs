//! Our devices under drivers that are not ours: those of the `virtio-drivers` crate, in this
//! process and without a VM. What they and our devices agree on is the specification.
//!
//! Each test runs on both transports ([`TransportKind`]): virtio-mmio, by its registers, and vhost-user, by
//! the `vhost` crate's front end; on each with every choice of the ring features that a driver
//! has (event index, indirect descriptors). The driver waits for interrupts: a device that does
//! not send them fails by a time limit.

#![allow(clippy::unwrap_used)]

mod block;
mod memory;
#[path = "../namespace/mod.rs"]
mod namespace;
mod net;
mod rng;
mod tap;
mod transport;
mod vsock;

use virtio_drivers::transport::InterruptStatus;

use memory::Arena;
use transport::{Interrupts, TransportKind};

/// Names the test functions to run on each transport.
macro_rules! on_every_transport {
    ($($name:ident),* $(,)?) => {
        mod mmio {
            $(#[test] fn $name() { super::$name(crate::transport::TransportKind::Mmio) })*
        }
        mod vhost_user {
            $(#[test] fn $name() { super::$name(crate::transport::TransportKind::VhostUser) })*
        }
    };
}
pub(crate) use on_every_transport;

/// The ring features of virtio 1.2 section 6 that a driver may leave out.
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// Runs a test with each choice of ring features.
fn with_each_ring_feature_set(test: impl Fn(u64)) {
    for masked in [0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT] {
        println!("without features {masked:#x}");
        test(masked);
    }
}
