//! Drivers that keep no rule, for property tests and for the fuzz targets in `fuzz/`. Not part of
//! the API.
//!
//! A run is a list of bytes. They say which device there is and what its driver does with its
//! registers, rings and buffers ([`script`]), in one thread and without waiting ([`machine`]), in
//! memory that is watched ([`memory`]). Whatever the bytes are:
//!
//! - nothing panics, and every step comes to an end;
//! - nothing is written outside guest memory;
//! - after a reset the device serves a driver that keeps the rules;
//! - what may not change has not changed: the image under an overlay, a disk that is only read.

mod devices;
mod link;
mod machine;
mod memory;
mod script;
#[cfg(test)]
mod tests;

use devices::{Disk, Sockets, Subject};
use link::Link;
use machine::Machine;
use script::{Bytes, Script};

use crate::virtio::rng::Rng;

/// The entropy device.
pub fn rng(data: &[u8]) {
    let machine = Machine::new(Box::new(Rng::new()));
    run(machine, devices::Entropy, data);
}

/// The block device, on each of its back ends.
pub fn block(data: &[u8]) {
    let (kind, data) = data.split_first().unwrap_or((&0, &[]));
    let (disk, device) = Disk::new(*kind);
    run(Machine::new(Box::new(device)), disk, data);
}

/// The socket device, and what happens on the host's ends of its streams.
pub fn vsock(data: &[u8]) {
    let (sockets, device) = Sockets::new();
    run(Machine::new(Box::new(device)), sockets, data);
}

/// The network device on a stream, and what its peer does.
pub fn net(data: &[u8]) {
    let (link, device) = Link::new();
    run(Machine::new(Box::new(device)), link, data);
}

/// The registers alone: any access of any width, in any order.
pub fn registers(data: &[u8]) {
    let mut machine = Machine::new(Box::new(Rng::new()));
    let mut bytes = Bytes(data);
    while !bytes.is_empty() {
        let kind = bytes.byte();
        let offset = match kind & 0xc0 {
            0 => bytes.long(),
            0x40 => 0x100 + u64::from(bytes.byte()),
            _ => u64::from(bytes.byte()) & !3,
        };
        let width = if kind & 0x20 == 0 { 4 } else { kind & 0xf };
        let value = match kind & 0x30 {
            0x10 => bytes.word().into(),
            _ => u64::from(bytes.byte()),
        };
        let mut buffer = [0; 16];
        buffer[..8].copy_from_slice(&value.to_le_bytes());
        let buffer = &mut buffer[..usize::from(width)];
        if kind & 1 == 0 {
            machine.write(offset, buffer);
        } else {
            machine.read(offset, buffer);
        }
        machine.settle();
    }
    finish(machine, &mut devices::Entropy);
}

fn run(mut machine: Machine, mut subject: impl Subject, data: &[u8]) {
    let mut script = Script::new(data);
    while script.step(&mut machine, &mut subject) {
        machine.settle();
    }
    finish(machine, &mut subject);
}

fn finish(mut machine: Machine, subject: &mut impl Subject) {
    machine.memory.check();
    machine.begin(u64::MAX, 5);
    subject.is_served(&mut machine);
    machine.memory.check();
}
