//! The transport as a driver sees it, with the real entropy device behind it.

mod rules;

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use proptest::prelude::*;
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Address, Bytes, GuestAddress};

use super::super::rng::Rng;
use super::*;

const VERSION_1: u64 = 1 << 32;

#[derive(Debug)]
struct Pulses(Sender<()>);

impl InterruptLine for Pulses {
    fn pulse(&self) {
        self.0.send(()).unwrap();
    }
}

/// Rings of sixteen entries.
const RINGS: [u64; 3] = [0x1000, 0x2000, 0x3000];

struct Driver {
    transport: MmioTransport,
    memory: GuestMemoryMmap,
    interrupts: Receiver<()>,
}

impl Driver {
    fn new() -> Driver {
        Driver::of(Box::new(Rng::new()))
    }

    fn of(device: Box<dyn VirtioDevice>) -> Driver {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        Driver::in_memory(device, memory)
    }

    fn in_memory(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Driver {
        let (sender, interrupts) = mpsc::channel();
        let transport =
            MmioTransport::new(device, memory.clone(), Box::new(Pulses(sender))).unwrap();
        Driver {
            transport,
            memory,
            interrupts,
        }
    }

    fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    /// Up to and with `FEATURES_OK`, accepting only `VIRTIO_F_VERSION_1`.
    fn negotiate(&self) {
        self.accept(VERSION_1);
    }

    /// Up to and with `FEATURES_OK`.
    fn accept(&self, features: u64) {
        self.write(0x70, 0);
        self.write(0x70, 1);
        self.write(0x70, 3);
        for half in 0..2 {
            self.write(0x24, half);
            self.write(0x20, (features >> (32 * half)) as u32);
        }
        self.write(0x70, 11);
        assert_eq!(self.read(0x70), 11);
    }

    fn set_up_queue(&self, descriptors: u64, available: u64, used: u64) {
        self.write(0x30, 0);
        self.write(0x38, 16);
        for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
        assert_eq!(self.read(0x44), 1);
    }

    /// Programs queue 0 and tries to enable it; what `QueueReady` reads then.
    fn try_queue(&self, size: u32, rings: [u64; 3]) -> u32 {
        self.write(0x30, 0);
        self.write(0x44, 0);
        self.write(0x38, size);
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
        self.read(0x44)
    }

    /// Offers a buffer of 64 bytes at `address` in the rings of [`RINGS`], as entry `index`.
    fn offer(&self, index: u16, address: u64) {
        let write = |at: u64, bytes: &[u8]| {
            let at = GuestAddress(at);
            self.memory.write_slice(bytes, at).unwrap();
        };
        write(RINGS[0], &address.to_le_bytes());
        write(RINGS[0] + 8, &[64, 0, 0, 0, 2, 0, 0, 0]);
        write(RINGS[1] + 4 + 2 * u64::from(index % 16), &[0, 0]);
        write(RINGS[1] + 2, &(index + 1).to_le_bytes());
    }

    /// How many buffers were used, by the used ring.
    fn used(&self) -> u16 {
        let at = GuestAddress(RINGS[2] + 2);
        self.memory.read_obj(at).unwrap()
    }

    fn interrupt(&self) -> u32 {
        self.interrupts
            .recv_timeout(Duration::from_secs(10))
            .expect("an interrupt");
        self.read(0x60)
    }
}

#[test]
fn the_device_is_known_by_its_registers() {
    let driver = Driver::new();
    assert_eq!(
        [0x00, 0x04, 0x08].map(|offset| driver.read(offset)),
        [0x7472_6976, 2, 4]
    );
    driver.write(0x14, 1);
    assert_eq!(driver.read(0x10) & 1, 1, "VIRTIO_F_VERSION_1");
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0);
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 0, "there is no second queue");
    assert_eq!(driver.read(0xb0), u32::MAX, "there is no shared memory");
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let driver = Driver::new();
    driver.write(0x70, 3);
    driver.write(0x24, 1);
    driver.write(0x20, u32::MAX);
    driver.write(0x70, 11);
    assert_eq!(driver.read(0x70), 3);
}

#[test]
fn a_legacy_driver_is_not_accepted() {
    let driver = Driver::new();
    driver.write(0x70, 3);
    driver.write(0x70, 11);
    assert_eq!(driver.read(0x70), 3);
    driver.write(0x70, 15);
    assert_eq!(driver.read(0x70), 3, "DRIVER_OK needs FEATURES_OK");
}

#[test]
fn a_buffer_is_filled_and_its_interrupt_acknowledged() {
    let driver = Driver::new();
    driver.negotiate();
    let queue = MockSplitQueue::create(&driver.memory, GuestAddress(0x1000), 16);
    let descriptor = Descriptor::new(0x8000, 64, 2, 0);
    queue
        .build_desc_chain(&[RawDescriptor::from(descriptor)])
        .unwrap();
    driver.set_up_queue(
        queue.desc_table_addr().0,
        queue.avail_addr().0,
        queue.used_addr().0,
    );
    driver.write(0x70, 15);
    driver.write(0x50, 0);
    assert_eq!(driver.interrupt(), 1);
    driver.write(0x64, 1);
    assert_eq!(driver.read(0x60), 0);
    let mut bytes = [0; 64];
    driver
        .memory
        .read_slice(&mut bytes, GuestAddress(0x8000))
        .unwrap();
    assert_ne!(bytes, [0; 64]);
    assert_eq!(
        driver
            .memory
            .read_obj::<u16>(queue.used_addr().unchecked_add(2))
            .unwrap(),
        1
    );
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_makes_it_panic(
        accesses in prop::collection::vec(
            (any::<bool>(), prop_oneof![0u64..0x110, any::<u64>()], 0usize..9, any::<u32>()),
            0..200,
        ),
    ) {
        let driver = Driver::new();
        for (write, offset, width, value) in accesses {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&value.to_le_bytes());
            if write {
                driver.transport.write(offset, &bytes[..width]);
            } else {
                driver.transport.read(offset, &mut bytes[..width]);
            }
        }
        driver.negotiate();
    }
}
