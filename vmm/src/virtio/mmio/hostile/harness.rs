//! A device behind its virtio-mmio registers, without a worker thread: [`Harness::run_worker`] does
//! what the worker of [`MmioTransport`](super::super::MmioTransport) would do.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_queue::desc::split::Descriptor;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::super::registers::{self, Change, Core, Event, EventContext, RegisterState};
use super::super::{Interrupt, InterruptLine};
use super::memory::GuardedMemory;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::registers::{
    QUEUE_NUM_MAX, QUEUE_SEL, READY, Registers, STATUS, VERSION_1,
};
use crate::virtio::testing::{Buffer, SplitRing, poll_readable};

/// Where queue 0 is when its driver follows the specification; each takes one stride.
pub const RINGS: u64 = 0x1000;
pub const STRIDE: u64 = 0x2000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x1800;
/// Memory from here on is for buffers.
pub const BUFFERS: u64 = 0x8000;

/// A device, its registers and its guest's memory.
#[derive(Debug)]
pub struct Harness {
    core: Core,
    interrupt: Interrupt,
    /// The queues whose notifications are pending.
    notified: RefCell<BTreeSet<usize>>,
    state_changed: bool,
    rings: Vec<SplitRing>,
    /// Dropped last: the device and the rings refer to it.
    pub memory: GuardedMemory,
}

#[derive(Debug)]
struct NoLine;

impl InterruptLine for NoLine {
    fn pulse(&self) {}
}

impl Harness {
    pub fn new(device: Box<dyn VirtioDevice>) -> Harness {
        let memory = GuardedMemory::new();
        let rings = (0..device.queue_sizes().len())
            .map(|queue| SplitRing::new(&memory.guest, ring_addresses(queue), 1));
        Harness {
            rings: rings.collect(),
            core: Core::new(device, memory.guest.clone()).expect("queue sizes of a device"),
            interrupt: Interrupt {
                status: AtomicU32::new(0),
                line: Box::new(NoLine),
            },
            notified: RefCell::default(),
            state_changed: false,
            memory,
        }
    }

    /// Gives the device a state, as after a snapshot. Returns whether it takes it.
    pub fn restore(&mut self, state: &RegisterState) -> bool {
        self.state_changed = self.core.restore(state).is_ok();
        self.state_changed
    }

    /// The number of queues.
    pub fn queues(&self) -> usize {
        self.rings.len()
    }

    /// A queue as [`start`](Self::start) programmed it.
    pub fn ring(&self, queue: usize) -> &SplitRing {
        &self.rings[queue]
    }

    /// Reads registers, at any offset and width.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.core.read(offset, data);
    }

    /// Writes registers, at any offset and width.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else {
            return self.core.write_config(offset, data);
        };
        let value = u32::from_le_bytes(bytes);
        match offset {
            registers::INTERRUPT_ACK => {
                self.interrupt.status.fetch_and(!value, Ordering::SeqCst);
            }
            registers::QUEUE_NOTIFY => {
                let queue = value as usize;
                if queue < self.queues() {
                    self.notified.borrow_mut().insert(queue);
                }
            }
            _ => self.state_changed |= self.core.write(offset, value) != Change::None,
        }
    }

    /// Handles every pending event once.
    pub fn run_worker(&mut self) {
        if std::mem::take(&mut self.state_changed) {
            self.handle(Event::State);
        }
        for queue in self.notified.take() {
            self.handle(Event::Queue(queue));
        }
        let backend = self.core.device().backend_fd();
        if backend.is_some_and(|fd| poll_readable(fd, 0)) {
            self.handle(Event::Backend);
        }
    }

    fn handle(&mut self, event: Event) {
        let notified = &self.notified;
        let reschedule = |queue: usize| {
            notified.borrow_mut().insert(queue);
        };
        let context = EventContext {
            interrupt: &self.interrupt,
            reschedule: &reschedule,
        };
        self.core.handle(event, context);
    }

    /// Resets the device and starts it as a driver that follows the specification does: with those
    /// of `features` that are offered, and queues of 2^`order` entries.
    pub fn start(&mut self, features: u64, order: u32) {
        let features = self.offered_features() & features;
        self.negotiate(features | VERSION_1);
        for queue in 0..self.queues() {
            let addresses = ring_addresses(queue);
            self.put(addresses[0], &[0; STRIDE as usize]);
            self.write_register(QUEUE_SEL, queue as u32);
            let size = self.read_register(QUEUE_NUM_MAX).min(1 << order);
            assert!(self.program_queue(queue as u32, size, addresses));
            self.rings[queue] = SplitRing::new(&self.memory.guest, addresses, size as u16);
        }
        self.write_register(STATUS, READY);
        self.run_worker();
        assert_eq!(self.read_register(STATUS), READY);
    }

    /// Writes guest memory; what is outside is left out.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.guest.write(bytes, GuestAddress(at));
    }

    /// Reads guest memory; what is outside reads as zeros.
    pub fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.memory.guest.read(&mut bytes, GuestAddress(at));
        bytes
    }

    /// Writes a descriptor anywhere in guest memory.
    pub fn describe(&self, at: u64, descriptor: Descriptor) {
        self.put(at, descriptor.as_slice());
    }

    /// Makes a request available, in the descriptors from `head` on, whether or not they are free.
    pub fn offer(&self, queue: usize, head: u16, buffers: &[Buffer]) {
        let ring = self.ring(queue);
        let indices: Vec<u16> = (head..)
            .map(|index| index % ring.size())
            .take(buffers.len())
            .collect();
        ring.chain(&indices, buffers);
        ring.publish(head % ring.size());
    }
}

impl Registers for Harness {
    fn read_register(&mut self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        self.write(offset.into(), &value.to_le_bytes());
    }
}

/// Descriptor table, available ring, used ring.
pub fn ring_addresses(queue: usize) -> [u64; 3] {
    let at = RINGS + STRIDE * queue as u64;
    [at, at + AVAILABLE, at + USED]
}
