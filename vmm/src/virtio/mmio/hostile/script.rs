//! Turns input bytes into steps of a driver. Every input is valid, and a small mutation changes few
//! steps. The choices favour values that are nearly valid.

use virtio_queue::desc::split::Descriptor;

use super::harness::{BUFFERS, Harness, RINGS, STRIDE, ring_addresses};
use super::memory::RANGES;
use super::targets::Target;
use crate::virtio::testing::registers::{
    CONFIG, QUEUE_NOTIFY, QUEUE_READY, QUEUE_RESET, QUEUE_SEL, Registers, STATUS,
};
use crate::virtio::testing::{readable, writable};

/// The input bytes; zeros after their end.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let n = N.min(self.0.len());
        array[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        array
    }

    /// An address: most often in the buffers, else near an end of memory, or any.
    fn address(&mut self) -> u64 {
        let [(a, a_len), (b, b_len)] = RANGES;
        let near = |at: u64, byte: u8| at.wrapping_add(byte.into()).wrapping_sub(128);
        match self.byte() % 16 {
            0..8 => BUFFERS + 64 * u64::from(self.byte()),
            8 | 9 => RINGS + u64::from(self.short()) % (3 * STRIDE),
            10 => near(a + a_len as u64, self.byte()),
            11 => near(b, self.byte()),
            12 => near(b + b_len as u64, self.byte()),
            13 => near(0, self.byte()),
            14 => self.short().into(),
            _ => self.long(),
        }
    }

    /// A length: most often small, else a few sectors, or any.
    fn length(&mut self) -> u32 {
        match self.byte() % 8 {
            0 | 1 => u32::from(self.byte() % 64),
            2 => 16,
            3 | 4 => 512 * u32::from(self.byte() % 9),
            5 => 44 + u32::from(self.byte()),
            6 => self.short().into(),
            _ => self.word(),
        }
    }
}

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
