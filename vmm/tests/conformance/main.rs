//! Our devices with independent drivers, those of the `virtio-drivers` crate, in this process and
//! without a VM. A misreading of the specification in our devices and test drivers shows here.
//!
//! Each test runs on both transports ([`TransportKind`]), virtio-mmio registers and the `vhost`
//! crate's vhost-user front end, and on each with every combination of ring features (event index,
//! indirect descriptors). Drivers wait for interrupts, so a missing interrupt fails the test with a
//! timeout.

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

/// Defines a test on each transport for each of these functions.
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

/// The ring features that a driver may decline (virtio 1.2 section 6).
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// Runs a test with each combination of ring features; the argument is those that are hidden.
fn with_each_ring_feature_set(test: impl Fn(u64)) {
    for masked in [0, EVENT_IDX, INDIRECT, EVENT_IDX | INDIRECT] {
        println!("masked features: {masked:#x}");
        test(masked);
    }
}
