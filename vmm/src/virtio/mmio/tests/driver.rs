//! A driver of one queue that uses the registers.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::virtio::VirtioDevice;
use crate::virtio::mmio::{InterruptLine, MmioTransport};
use crate::virtio::rng::Rng;
use crate::virtio::testing::registers::{
    INTERRUPT_ACK, INTERRUPT_STATUS, QUEUE_NOTIFY, READY, Registers, STATUS, VERSION_1,
};
use crate::virtio::testing::{SplitRing, writable};

/// Descriptor table, available ring and used ring of queue 0.
pub const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];
/// The number of its entries.
pub const SIZE: u16 = 16;
/// A buffer.
pub const BUFFER: u64 = 0x8000;

#[derive(Debug)]
struct Pulses(Sender<()>);

impl InterruptLine for Pulses {
    fn pulse(&self) {
        self.0.send(()).unwrap();
    }
}

pub struct Driver {
    pub transport: MmioTransport,
    pub memory: GuestMemoryMmap,
    pub ring: SplitRing,
    interrupts: Receiver<()>,
}

impl Driver {
    /// A driver of the entropy device.
    pub fn new() -> Driver {
        Driver::of(Box::new(Rng::new()))
    }

    pub fn of(device: Box<dyn VirtioDevice>) -> Driver {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        Driver::in_memory(device, memory)
    }

    pub fn in_memory(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Driver {
        let (sender, interrupts) = mpsc::channel();
        let line = Box::new(Pulses(sender));
        let transport = MmioTransport::new(device, memory.clone(), line).unwrap();
        Driver {
            transport,
            ring: SplitRing::new(&memory, RINGS, SIZE),
            memory,
            interrupts,
        }
    }

    /// A driver of the entropy device that has accepted these features and `VIRTIO_F_VERSION_1`,
    /// and is ready.
    pub fn live(features: u64) -> Driver {
        let driver = Driver::new();
        driver.negotiate(VERSION_1 | features);
        driver.go_live();
        driver
    }

    /// Enables queue 0 and sets `DRIVER_OK`.
    pub fn go_live(&self) {
        assert!(self.try_queue(SIZE.into(), RINGS));
        self.write(STATUS, READY);
    }

    pub fn read(&self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset.into(), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub fn write(&self, offset: u32, value: u32) {
        self.transport.write(offset.into(), &value.to_le_bytes());
    }

    pub fn negotiate(&self, features: u64) {
        Registers::negotiate(&mut &*self, features);
    }

    /// Programs queue 0; whether it can be enabled.
    pub fn try_queue(&self, size: u32, rings: [u64; 3]) -> bool {
        (&mut &*self).program_queue(0, size, rings)
    }

    /// Makes a buffer of 64 bytes available as entry `index`, in descriptor 0.
    pub fn offer(&self, index: u16) {
        self.ring.set_available_index(index);
        self.ring.chain(&[0], &[writable(BUFFER, 64)]);
        self.ring.publish(0);
    }

    /// Requests one buffer, waits until it is filled, and acknowledges the interrupt.
    pub fn assert_served(&self, index: u16) {
        self.offer(index);
        self.write(QUEUE_NOTIFY, 0);
        assert_eq!(self.interrupt(), 1);
        assert_eq!(self.ring.used_index(), index + 1);
        self.write(INTERRUPT_ACK, 1);
    }

    /// Waits for an interrupt; `InterruptStatus`.
    pub fn interrupt(&self) -> u32 {
        let interrupt = self.interrupts.recv_timeout(Duration::from_secs(10));
        interrupt.expect("an interrupt");
        self.read(INTERRUPT_STATUS)
    }

    /// Stops the worker, which handles all pending events first; the rings and the interrupts that
    /// were not received.
    pub fn stop(self) -> (SplitRing, usize) {
        drop(self.transport);
        (self.ring, self.interrupts.try_iter().count())
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }
}

impl Registers for &Driver {
    fn read_register(&mut self, offset: u32) -> u32 {
        self.read(offset)
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        self.write(offset, value);
    }
}
