//! From bytes to what a driver does. Every list of bytes is a script; those that are mutated a
//! little stay mostly the same. Most choices are made so that something is there to be broken.

use super::devices::Subject;
use super::machine::{BUFFERS, Machine, RINGS, STRIDE};
use super::memory::RANGES;

/// Bytes to choose by; zeros when there are no more.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
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

    /// An address: most often a buffer's, or near an end of memory, or anything.
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

    /// A length: most often small, or a few sectors, or anything.
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

/// What is left of the bytes, and what the driver knows.
#[derive(Debug)]
pub struct Script<'a> {
    bytes: Bytes<'a>,
    /// The size of each queue, as it was programmed by the rules.
    size: u16,
}

impl<'a> Script<'a> {
    pub fn new(data: &'a [u8]) -> Script<'a> {
        Script {
            bytes: Bytes(data),
            size: 1,
        }
    }

    /// One step; `false` when there are no more.
    pub fn step(&mut self, machine: &mut Machine, subject: &mut impl Subject) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        let bytes = &mut self.bytes;
        match bytes.byte() % 32 {
            0 | 1 => {
                let order = u32::from(bytes.byte() % 6);
                self.size = 1 << order;
                // Of the ring features; others are the device's own.
                let features = u64::from(bytes.byte() & 7);
                let rings = (features & 3) << 28 | (features >> 2) << 40;
                machine.begin(rings | 0xffff, order);
            }
            2..8 => {
                let queue = usize::from(bytes.byte()) % machine.queues();
                let head = u16::from(bytes.byte() % 32);
                let count = bytes.byte() % 4 + 1;
                let readable = bytes.byte() % (count + 1);
                let pieces: Vec<_> = (0..count)
                    .map(|n| (bytes.address(), bytes.length(), n >= readable))
                    .collect();
                machine.offer(queue, self.size, head, &pieces);
            }
            8..11 => subject.request(bytes, machine, self.size),
            11..15 => {
                let queue = u32::from(bytes.byte() % 4);
                machine.set(0x50, queue);
            }
            15 | 16 => {
                let at = match bytes.byte() % 4 {
                    0 => BUFFERS + 64 * u64::from(bytes.byte()),
                    queue => {
                        let [descriptors, ..] = Machine::rings(usize::from(queue) - 1);
                        descriptors + 16 * u64::from(bytes.byte() % 33)
                    }
                };
                let (addr, len) = (bytes.address(), bytes.length());
                machine.describe(at, addr, len, bytes.byte().into(), bytes.byte().into());
            }
            17 => {
                let queue = usize::from(bytes.byte()) % machine.queues();
                let head = match bytes.byte() {
                    255 => bytes.short(),
                    head => u16::from(head % 32),
                };
                machine.publish(queue, self.size, head);
            }
            18 => {
                let [_, available, _] = Machine::rings(usize::from(bytes.byte() % 3));
                machine.put(available + 2, &bytes.array::<2>());
            }
            19 => {
                let at = bytes.address();
                machine.put(at, &bytes.array::<8>());
            }
            20 => machine.set(0x70, bytes.byte().into()),
            21 => {
                let register = u64::from(bytes.byte()) & !3;
                machine.set(register, bytes.word());
            }
            22 => program(bytes, machine),
            23 => {
                machine.set(0x30, u32::from(bytes.byte() % 4));
                machine.set(
                    if bytes.byte() & 1 == 0 { 0x44 } else { 0xc0 },
                    bytes.byte().into(),
                );
            }
            24 => {
                let offset = 0x100 + u64::from(bytes.byte());
                let width = usize::from(bytes.byte() % 9);
                let mut data = bytes.array::<8>();
                machine.write(offset, &data[..width]);
                machine.read(offset, &mut data[..width]);
            }
            _ => subject.host(bytes),
        }
        true
    }
}

/// Another place for a queue, wherever that is: over another ring, over a buffer, outside.
fn program(bytes: &mut Bytes<'_>, machine: &mut Machine) {
    machine.set(0x30, u32::from(bytes.byte() % 4));
    machine.set(0x44, 0);
    machine.set(0x38, 1 << (bytes.byte() % 9));
    for (register, alignment) in [(0x80, 16), (0x90, 2), (0xa0, 4)] {
        let address = bytes.address() & !(alignment - 1);
        machine.set(register, address as u32);
        machine.set(register + 4, (address >> 32) as u32);
    }
    machine.set(0x44, 1);
}
