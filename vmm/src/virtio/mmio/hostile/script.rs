//! Turns input bytes into steps of a driver. Every input is valid, and a small mutation changes few
//! steps.

use virtio_queue::desc::split::Descriptor;

use super::harness::{BUFFERS, Harness, ring_addresses};
use super::input::Input;
use super::targets::Target;
use crate::virtio::testing::registers::{
    CONFIG, QUEUE_NOTIFY, QUEUE_READY, QUEUE_RESET, QUEUE_SEL, Registers, STATUS,
};
use crate::virtio::testing::{readable, writable};

/// Does one step of the script; `false` at its end.
pub fn step(input: &mut Input<'_>, harness: &mut Harness, target: &mut impl Target) -> bool {
    if input.is_empty() {
        return false;
    }
    match input.byte() % 32 {
        0 | 1 => {
            let order = u32::from(input.byte() % 6);
            // The input chooses the ring features; all features of the device are accepted.
            let features = u64::from(input.byte() & 7);
            let rings = (features & 3) << 28 | (features >> 2) << 40;
            harness.start(rings | 0xffff, order);
        }
        2..8 => {
            let queue = usize::from(input.byte()) % harness.queues();
            let head = u16::from(input.byte() % 32);
            let count = input.byte() % 4 + 1;
            let readable_count = input.byte() % (count + 1);
            let buffers: Vec<_> = (0..count)
                .map(|n| {
                    let (address, len) = (input.address(), input.length());
                    if n < readable_count {
                        readable(address, len)
                    } else {
                        writable(address, len)
                    }
                })
                .collect();
            harness.offer(queue, head, &buffers);
        }
        8..11 => target.request(input, harness),
        11..15 => {
            let queue = u32::from(input.byte() % 4);
            harness.write_register(QUEUE_NOTIFY, queue);
        }
        15 | 16 => {
            let at = match input.byte() % 4 {
                0 => BUFFERS + 64 * u64::from(input.byte()),
                queue => {
                    let [descriptors, ..] = ring_addresses(usize::from(queue) - 1);
                    descriptors + 16 * u64::from(input.byte() % 33)
                }
            };
            let (addr, len) = (input.address(), input.length());
            let (flags, next) = (input.byte().into(), input.byte().into());
            harness.describe(at, Descriptor::new(addr, len, flags, next));
        }
        17 => {
            let queue = usize::from(input.byte()) % harness.queues();
            let head = match input.byte() {
                255 => input.short(),
                head => u16::from(head % 32),
            };
            harness.ring(queue).publish(head);
        }
        18 => {
            let [_, available, _] = ring_addresses(usize::from(input.byte() % 3));
            harness.put(available + 2, &input.array::<2>());
        }
        19 => {
            let at = input.address();
            harness.put(at, &input.array::<8>());
        }
        20 => harness.write_register(STATUS, input.byte().into()),
        21 => {
            let register = u32::from(input.byte()) & !3;
            harness.write_register(register, input.word());
        }
        22 => program(input, harness),
        23 => {
            harness.write_register(QUEUE_SEL, u32::from(input.byte() % 4));
            let register = if input.byte() & 1 == 0 {
                QUEUE_READY
            } else {
                QUEUE_RESET
            };
            harness.write_register(register, input.byte().into());
        }
        24 => {
            let offset = u64::from(CONFIG) + u64::from(input.byte());
            let width = usize::from(input.byte() % 9);
            let mut data = input.array::<8>();
            harness.write(offset, &data[..width]);
            harness.read(offset, &mut data[..width]);
        }
        _ => target.host_event(input),
    }
    true
}

/// Programs a queue anywhere: over another ring, over a buffer, outside memory.
fn program(input: &mut Input<'_>, harness: &mut Harness) {
    let queue = u32::from(input.byte() % 4);
    let size = 1 << (input.byte() % 9);
    let addresses = [16, 2, 4].map(|alignment| input.address() & !(alignment - 1));
    harness.program_queue(queue, size, addresses);
}
