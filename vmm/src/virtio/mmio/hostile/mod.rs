//! Hostile drivers, for property tests and for the fuzz targets in `fuzz/`. Not part of the API.
//!
//! The input is a list of bytes ([`input`]) that determine what the driver does to the registers,
//! rings and buffers of the device ([`script`]). A run has one thread and never waits
//! ([`harness`]), and its guest memory has guard areas ([`memory`]). For any input:
//!
//! - nothing panics, and every step ends;
//! - nothing is written outside guest memory;
//! - after a reset, the device serves a driver that follows the specification ([`targets`]);
//! - the base of an overlay and a read-only disk are unchanged.

mod harness;
mod input;
mod memory;
mod script;
mod targets;
#[cfg(test)]
mod tests;

use harness::Harness;
use input::Input;
use targets::{BlockTarget, NetTarget, RngTarget, Target, VsockTarget};

use crate::virtio::rng::Rng;

/// The entropy device.
pub fn rng(data: &[u8]) {
    let harness = Harness::new(Box::new(Rng::new()));
    run(harness, RngTarget, data);
}

/// The block device; the first byte chooses the back end.
pub fn block(data: &[u8]) {
    let (kind, data) = data.split_first().unwrap_or((&0, &[]));
    let (target, device) = BlockTarget::new(*kind);
    run(Harness::new(Box::new(device)), target, data);
}

/// The socket device, and the host's ends of its streams.
pub fn vsock(data: &[u8]) {
    let (target, device) = VsockTarget::new();
    run(Harness::new(Box::new(device)), target, data);
}

/// The network device on a stream, and its peer.
pub fn net(data: &[u8]) {
    let (target, device) = NetTarget::new();
    run(Harness::new(Box::new(device)), target, data);
}

/// The registers alone: accesses of any width, in any order.
pub fn registers(data: &[u8]) {
    let mut harness = Harness::new(Box::new(Rng::new()));
    let mut input = Input(data);
    while !input.is_empty() {
        let kind = input.byte();
        let offset = match kind & 0xc0 {
            0 => input.long(),
            0x40 => 0x100 + u64::from(input.byte()),
            _ => u64::from(input.byte()) & !3,
        };
        let width = if kind & 0x20 == 0 { 4 } else { kind & 0xf };
        let value = match kind & 0x30 {
            0x10 => input.word().into(),
            _ => u64::from(input.byte()),
        };
        let mut buffer = [0; 16];
        buffer[..8].copy_from_slice(&value.to_le_bytes());
        let buffer = &mut buffer[..usize::from(width)];
        if kind & 1 == 0 {
            harness.write(offset, buffer);
        } else {
            harness.read(offset, buffer);
        }
        harness.run_worker();
    }
    finish(harness, &mut RngTarget);
}

fn run(mut harness: Harness, mut target: impl Target, data: &[u8]) {
    let mut input = Input(data);
    while script::step(&mut input, &mut harness, &mut target) {
        harness.run_worker();
    }
    finish(harness, &mut target);
}

fn finish(mut harness: Harness, target: &mut impl Target) {
    harness.memory.check();
    harness.start(u64::MAX, 5);
    target.assert_serves(&mut harness);
    harness.memory.check();
}
