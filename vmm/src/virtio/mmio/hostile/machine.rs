//! A device on its registers, as [`MmioTransport`](super::super::MmioTransport) has it, but
//! without a thread: what its worker would do happens when it is asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress};

use super::super::registers::{self, Around, Change, Core, Event};
use super::super::{Interrupt, InterruptLine};
use super::memory::Guarded;
use crate::virtio::VirtioDevice;

/// Where queue 0 is when its driver keeps the rules; each takes one stride.
pub const RINGS: u64 = 0x1000;
pub const STRIDE: u64 = 0x2000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x1800;
/// What is from here on is for buffers.
pub const BUFFERS: u64 = 0x8000;

/// A device, its registers and its guest's memory.
#[derive(Debug)]
pub struct Machine {
    core: Core,
    interrupt: Interrupt,
    /// The queues that are to be looked at.
    kicked: RefCell<BTreeSet<usize>>,
    state_changed: bool,
    queues: usize,
    /// Dropped last: the device has a part of it.
    pub memory: Guarded,
}

#[derive(Debug)]
struct NoLine;

impl InterruptLine for NoLine {
    fn pulse(&self) {}
}

impl Machine {
    pub fn new(device: Box<dyn VirtioDevice>) -> Machine {
        let memory = Guarded::new();
        let queues = device.queue_sizes().len();
        Machine {
            core: Core::new(device, memory.guest.clone()).expect("queue sizes of ours"),
            interrupt: Interrupt {
                status: AtomicU32::new(0),
                line: Box::new(NoLine),
            },
            kicked: RefCell::default(),
            state_changed: false,
            queues,
            memory,
        }
    }

    pub fn queues(&self) -> usize {
        self.queues
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.core.read(offset, data);
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return self.core.write_config(offset, data);
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            registers::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            }
            registers::QUEUE_NOTIFY => self.kick(value as usize),
            _ => self.state_changed |= self.core.write(offset, value) != Change::None,
        }
    }

    pub fn set(&mut self, register: u64, value: u32) {
        self.write(register, &value.to_le_bytes());
    }

    fn get(&self, register: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn kick(&self, queue: usize) {
        if queue < self.queues {
            self.kicked.borrow_mut().insert(queue);
        }
    }

    /// What the worker does once for each of the things it was woken for.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.state_changed) {
            self.handle(Event::State);
        }
        for queue in self.kicked.take() {
            self.handle(Event::Queue(queue));
        }
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let readable =
            self.core.device().backend_fd().is_some_and(|fd| {
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)) == Ok(1)
            });
        if readable {
            self.handle(Event::Backend);
        }
    }

    fn handle(&mut self, event: Event) {
        let kicked = &self.kicked;
        let again = |queue: usize| {
            kicked.borrow_mut().insert(queue);
        };
        let around = Around {
            interrupt: &self.interrupt,
            again: &again,
        };
        self.core.handle(event, around);
    }

    /// A new life under a driver that keeps the rules: it takes those of `features` that are
    /// offered, and queues of 2^`order` entries.
    pub fn begin(&mut self, features: u64, order: u32) {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        for half in 0..2 {
            self.set(0x14, half);
            let offered = self.get(0x10);
            // VERSION_1 is not a choice.
            let wanted = (features >> (32 * half)) as u32 | half;
            self.set(0x24, half);
            self.set(0x20, offered & wanted);
        }
        self.set(0x70, 11);
        assert_eq!(self.get(0x70), 11);
        for queue in 0..self.queues {
            let [descriptors, available, used] = Self::rings(queue);
            let zeros = [0; STRIDE as usize];
            self.put(descriptors, &zeros);
            self.set(0x30, queue as u32);
            self.set(0x38, self.get(0x34).min(1 << order));
            for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
                self.set(register, address as u32);
                self.set(register + 4, 0);
            }
            self.set(0x44, 1);
            assert_eq!(self.get(0x44), 1);
        }
        self.set(0x70, 15);
        self.settle();
        assert_eq!(self.get(0x70), 15);
    }

    /// Descriptor table, available ring, used ring.
    pub fn rings(queue: usize) -> [u64; 3] {
        let at = RINGS + STRIDE * queue as u64;
        [at, at + AVAILABLE, at + USED]
    }

    /// Writes guest memory, as far as there is any.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        // Part of it may be outside: then part of it is written.
        let _ = self.memory.guest.write(bytes, GuestAddress(at));
    }

    /// Reads guest memory; zeros where there is none.
    pub fn take<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.memory.guest.read(&mut bytes, GuestAddress(at));
        bytes
    }

    /// Writes one descriptor.
    pub fn describe(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Puts a head into an available ring of so many entries.
    pub fn publish(&self, queue: usize, size: u16, head: u16) {
        let [_, available, _] = Self::rings(queue);
        let index = u16::from_le_bytes(self.take(available + 2));
        let slot = available + 4 + 2 * u64::from(index % size);
        self.put(slot, &head.to_le_bytes());
        self.put(available + 2, &index.wrapping_add(1).to_le_bytes());
    }

    /// The index of a used ring.
    pub fn used(&self, queue: usize) -> u16 {
        let [_, _, used] = Self::rings(queue);
        u16::from_le_bytes(self.take(used + 2))
    }

    /// One request in the first descriptors from `head` on: address, length, writable.
    pub fn offer(&self, queue: usize, size: u16, head: u16, pieces: &[(u64, u32, bool)]) {
        let [descriptors, ..] = Self::rings(queue);
        for (&(addr, len, writable), index) in pieces.iter().zip(head..) {
            let last = usize::from(index - head) + 1 == pieces.len();
            let flags = u16::from(!last) | u16::from(writable) << 1;
            let at = descriptors + 16 * u64::from(index % size);
            self.describe(at, addr, len, flags, (index + 1) % size);
        }
        self.publish(queue, size, head % size);
    }
}
