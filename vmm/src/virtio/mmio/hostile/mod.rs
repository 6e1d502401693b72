//! Hostile drivers, for property tests and for the fuzz targets in `fuzz/`. Not part of the API.
//!
//! The input is a list of bytes ([`input`]) that determine what the driver does to the registers,
//! rings and buffers of the device ([`script`]). A run has one thread and never waits
//! ([`harness`]), and its guest memory has guard areas ([`memory`]). For any input:
//!
//! - nothing panics, and every step ends;
//! - nothing is written outside guest memory;
//! - after a reset, the device serves a driver that follows the specification ([`targets`]), also a device
//!   whose state was restored from whatever file ([`restored`]);
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

use super::registers::RegisterState;
use crate::snapshot::{Kind, StateFile, Writer};
use crate::virtio::rng::Rng;

/// Its number (virtio 1.2 section 5).
const BLOCK_TYPE: u32 = 2;

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

/// The block device with a state that it is told to have been saved with, and then its driver; the first
/// byte chooses the back end.
pub fn restored(data: &[u8]) {
    let mut input = Input(data);
    if let Some((harness, target)) = restore(&mut input) {
        run(harness, target, input.0);
    }
}

/// The device, if it takes the state.
fn restore(input: &mut Input<'_>) -> Option<(Harness, BlockTarget)> {
    let (target, device) = BlockTarget::new(input.byte());
    let mut harness = Harness::new(Box::new(device));
    let mut registers = [u64::from(BLOCK_TYPE), 0, 0, 0, 0, 0, 0, 0];
    for register in &mut registers {
        match input.byte() {
            0 => *register = input.long(),
            kind if kind & 1 != 0 => *register = input.byte().into(),
            _ => {}
        }
    }
    let queues: Vec<[u64; 7]> = (0..harness.queues())
        .map(|_| {
            let size = 1 << (input.byte() % 18);
            let rings = [(); 3].map(|()| input.address());
            let ready = u64::from(input.byte() & 1);
            let [next_avail, next_used] = [(); 2].map(|()| match input.byte() {
                0 => input.long(),
                index => index.into(),
            });
            let [descriptors, available, used] = rings;
            [
                size,
                descriptors,
                available,
                used,
                ready,
                next_avail,
                next_used,
            ]
        })
        .collect();
    let mut file = Writer::default();
    file.value(Kind::Transport, 0, &registers);
    file.value(Kind::Queues, 0, &queues[..]);
    let file = file.finish();
    let mut from = StateFile::parse(&file).expect("a file that was just written");
    let state = RegisterState::read(0, &mut from).expect("its sections");
    harness.restore(&state).then_some((harness, target))
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
