//! The rules of the register model, one a test; sections are those of virtio 1.2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::super::super::serve::serve_queue;
use super::super::super::{DeviceError, DeviceIo};
use super::*;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;
const READY: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

const EVENT_IDX: u64 = 1 << 29;
const RING_RESET: u64 = 1 << 40;

/// Live, with queue 0 in [`RINGS`].
fn live(features: u64) -> Driver {
    let driver = Driver::new();
    driver.accept(VERSION_1 | features);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    driver
}

/// Has one buffer filled. Its interrupt is acknowledged.
fn is_served(driver: &Driver, index: u16) {
    driver.offer(index, 0x8000);
    driver.write(0x50, 0);
    assert_eq!(driver.interrupt(), 1);
    assert_eq!(driver.used(), index + 1);
    driver.write(0x64, 1);
}

// Section 2.1, 3.1: status and features.

#[test]
fn status_bits_are_only_ever_added_but_by_a_reset() {
    let driver = Driver::new();
    assert_eq!(driver.read(0x70), 0);
    driver.write(0x70, ACKNOWLEDGE);
    driver.write(0x70, DRIVER);
    assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER);
    driver.write(0x70, NEEDS_RESET | 0x1000);
    assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER, "not the driver's");
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
}

#[test]
fn features_ok_needs_a_driver() {
    let driver = Driver::new();
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x70, FEATURES_OK);
    assert_eq!(driver.read(0x70), 0);
}

#[test]
fn features_are_not_taken_before_driver_or_after_features_ok() {
    let driver = Driver::new();
    // Before DRIVER: VERSION_1 is not there when it is asked for.
    driver.write(0x24, 1);
    driver.write(0x20, 1);
    driver.write(0x70, READY);
    assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER);
    // After FEATURES_OK: the event index is not negotiated, so flags decide.
    let driver = Driver::new();
    driver.accept(VERSION_1);
    driver.write(0x24, 0);
    driver.write(0x20, EVENT_IDX as u32);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    is_served(&driver, 0);
    // With an event index of zero in the ring the second would not be told.
    is_served(&driver, 1);
}

#[test]
fn a_bit_that_does_not_exist_is_not_accepted() {
    for bit in [33, 34, 35, 36, 37, 38, 39, 41, 63] {
        let driver = Driver::new();
        driver.write(0x70, ACKNOWLEDGE | DRIVER);
        for half in 0..2 {
            driver.write(0x24, half);
            driver.write(0x20, ((VERSION_1 | 1 << bit) >> (32 * half)) as u32);
        }
        driver.write(0x70, READY);
        assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER, "bit {bit}");
        // It may choose again.
        driver.write(0x20, 1);
        driver.write(0x70, READY);
        assert_eq!(driver.read(0x70), READY);
    }
}

#[test]
fn a_device_that_its_driver_gave_up_is_not_served_until_it_is_reset() {
    let driver = live(0);
    driver.write(0x70, READY | DRIVER_OK | FAILED);
    driver.offer(0, 0x8000);
    driver.write(0x50, 0);
    let driver = ended(driver);
    assert_eq!(driver.used(), 0);

    let driver = Driver::new();
    driver.accept(VERSION_1);
    driver.write(0x70, READY | FAILED);
    driver.write(0x70, READY | FAILED | DRIVER_OK);
    assert_eq!(driver.read(0x70), READY | FAILED);
    driver.accept(VERSION_1);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    is_served(&driver, 0);
}

/// Ends the worker, which first deals with all it was told; what is left is memory.
fn ended(driver: Driver) -> Ended {
    drop(driver.transport);
    Ended {
        memory: driver.memory,
        interrupts: driver.interrupts,
    }
}

struct Ended {
    memory: GuestMemoryMmap,
    interrupts: Receiver<()>,
}

impl Ended {
    fn used(&self) -> u16 {
        let at = GuestAddress(RINGS[2] + 2);
        self.memory.read_obj(at).unwrap()
    }
}

#[test]
fn a_ring_that_breaks_makes_the_device_need_a_reset_and_says_so() {
    let driver = live(0);
    driver
        .memory
        .write_obj(17u16, GuestAddress(RINGS[1] + 2))
        .unwrap();
    driver.write(0x50, 0);
    assert_eq!(driver.interrupt(), 2, "the status changed");
    assert_eq!(driver.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
    // Nothing is served until the reset, whatever the driver writes.
    driver.offer(0, 0x8000);
    driver.write(0x70, READY | DRIVER_OK);
    driver.write(0x50, 0);
    assert_eq!(driver.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
    assert_eq!(driver.used(), 0);

    driver.accept(VERSION_1);
    assert_eq!(driver.read(0x60), 0, "no interrupt outlives a reset");
    driver.offer(0, 0x8000);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    assert_eq!(driver.interrupt(), 1, "what was there before is served");
    assert_eq!(driver.used(), 1);
}

#[test]
fn a_reset_forgets_queues_and_features() {
    let driver = live(EVENT_IDX | RING_RESET);
    driver.write(0x70, 0);
    assert_eq!((driver.read(0x44), driver.read(0x60)), (0, 0));
    driver.write(0x70, ACKNOWLEDGE | DRIVER);
    driver.write(0x70, READY);
    assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER);
}

// Section 4.2.2: queues.

#[test]
fn queues_are_set_up_only_between_features_and_driver_ok() {
    let driver = Driver::new();
    assert_eq!(driver.try_queue(16, RINGS), 0);
    driver.negotiate();
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    assert_eq!(driver.try_queue(16, RINGS), 0, "stopped, and not again");
}

#[test]
fn a_size_of_zero_or_no_power_of_two_or_too_large_is_refused() {
    let driver = Driver::new();
    driver.negotiate();
    let max = driver.read(0x34);
    assert_eq!(max, 64);
    for size in [0, 3, 65, 128, 0x1_0000, 0x1_0010, u32::MAX] {
        assert_eq!(driver.try_queue(size, RINGS), 0, "{size}");
    }
    for size in [1, 2, 64] {
        assert_eq!(driver.try_queue(size, RINGS), 1, "{size}");
    }
}

#[test]
fn a_ring_that_is_not_aligned_is_refused() {
    let driver = Driver::new();
    driver.negotiate();
    for (ring, alignment) in [(0, 16), (1, 2), (2, 4)] {
        let mut rings = RINGS;
        rings[ring] += alignment / 2;
        assert_eq!(driver.try_queue(16, rings), 0, "ring {ring}");
        rings[ring] += alignment / 2;
        assert_eq!(driver.try_queue(16, rings), 1, "ring {ring}");
    }
}

#[test]
fn a_ring_outside_memory_is_refused() {
    let driver = Driver::new();
    driver.negotiate();
    let end = 1 << 20;
    // The lengths of rings of sixteen entries: 256, 38 and 134 bytes.
    for (ring, len) in [(0, 256), (1, 38), (2, 136)] {
        for outside in [end - len + 16, end, 1 << 40, !0xf] {
            let mut rings = RINGS;
            rings[ring] = outside;
            assert_eq!(driver.try_queue(16, rings), 0, "{ring} at {outside:#x}");
        }
        let mut rings = RINGS;
        rings[ring] = end - len;
        assert_eq!(driver.try_queue(16, rings), 1, "{ring} at the end");
    }
    // A queue that was refused does not stand in the way of one that is right.
    driver.try_queue(16, [0x1000, 0x2000, !0xf]);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    is_served(&driver, 0);
}

#[test]
fn a_queue_that_is_ready_is_not_programmed() {
    let driver = live(RING_RESET);
    driver.write(0x38, 8);
    driver.write(0x80, 0x7000);
    driver.write(0x84, 0xffff);
    is_served(&driver, 0);
}

#[test]
fn a_queue_that_is_stopped_while_live_is_left_alone() {
    let driver = live(0);
    is_served(&driver, 0);
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 0);
    // Its memory is the driver's again.
    driver.offer(1, 0x8000);
    driver.write(0x50, 0);
    let ended = ended(driver);
    assert_eq!(ended.used(), 1);
    assert!(ended.interrupts.try_recv().is_err());
}

#[test]
fn a_queue_that_does_not_exist_has_no_size_and_is_never_ready() {
    let driver = Driver::new();
    driver.negotiate();
    for queue in [1, 7, u32::MAX] {
        driver.write(0x30, queue);
        assert_eq!(driver.read(0x34), 0);
        driver.write(0x44, 1);
        assert_eq!(driver.read(0x44), 0);
        driver.write(0x50, queue);
    }
}

// Section 2.6.1: queue reset.

#[test]
fn queue_reset_is_offered_and_means_nothing_unless_accepted() {
    let driver = live(0);
    driver.write(0x14, 1);
    assert_eq!(driver.read(0x10) >> 8 & 1, 1, "VIRTIO_F_RING_RESET");
    driver.write(0xc0, 1);
    assert_eq!((driver.read(0x44), driver.read(0xc0)), (1, 0));
    is_served(&driver, 0);
}

#[test]
fn a_queue_that_was_reset_begins_again_while_the_device_is_live() {
    let driver = live(RING_RESET);
    is_served(&driver, 0);
    is_served(&driver, 1);
    driver.write(0xc0, 0);
    assert_eq!(driver.read(0x44), 1, "only one resets");
    driver.write(0xc0, 1);
    assert_eq!((driver.read(0x44), driver.read(0xc0)), (0, 0));
    assert_eq!(driver.read(0x70), READY | DRIVER_OK);

    // Available and used state are new; so are size and addresses.
    driver.write(0x44, 1);
    assert_eq!(driver.read(0x44), 1, "by default at address zero");
    driver.write(0xc0, 1);
    for at in [RINGS[1], RINGS[2]] {
        driver
            .memory
            .write_slice(&[0; 256], GuestAddress(at))
            .unwrap();
    }
    assert_eq!(driver.try_queue(16, RINGS), 1);
    is_served(&driver, 0);
    is_served(&driver, 1);
}

// Sections 2.5, 2.7.7, 2.10: configuration, notifications, shared memory.

#[test]
fn there_is_no_shared_memory() {
    let driver = Driver::new();
    for id in [0, 1, 255] {
        driver.write(0xac, id);
        assert_eq!(
            [0xb0, 0xb4, 0xb8, 0xbc].map(|at| driver.read(at)),
            [u32::MAX; 4]
        );
    }
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let driver = live(0);
    driver
        .memory
        .write_obj(1u16, GuestAddress(RINGS[1]))
        .unwrap();
    driver.offer(0, 0x8000);
    driver.write(0x50, 0);
    // The device is idle again when it has taken its next kick from the driver.
    while driver.used() == 0 {
        std::thread::yield_now();
    }
    let ended = ended(driver);
    assert!(ended.interrupts.try_recv().is_err());
}

/// A device whose configuration is the number of times it was told to change.
#[derive(Debug)]
struct Changing {
    event: OwnedFd,
    count: u8,
}

impl VirtioDevice for Changing {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.count);
    }

    fn acknowledge(&mut self, _features: u64) {}

    fn queue_event(&mut self, _: usize, _: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        Ok(())
    }

    fn backend_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }

    fn backend_event(&mut self, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        rustix::io::read(&self.event, &mut [0; 8]).map_err(std::io::Error::from)?;
        self.count += 1;
        io.config_changed();
        Ok(())
    }

    fn reset(&mut self) {}
}

#[test]
fn a_configuration_that_changes_raises_an_interrupt_and_has_another_generation() {
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let driver = Driver::of(Box::new(Changing {
        event: event.try_clone().unwrap(),
        count: 0,
    }));
    driver.accept(VERSION_1);
    driver.write(0x70, READY | DRIVER_OK);
    for round in 1..=3 {
        let before = (driver.read(0xfc), driver.read(0x100));
        assert_eq!(before, (driver.read(0xfc), driver.read(0x100)), "stable");
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(driver.interrupt(), 2, "configuration change");
        driver.write(0x64, 2);
        assert_eq!(driver.read(0x60), 0);
        assert_ne!(driver.read(0xfc), before.0);
        assert_eq!(driver.read(0x100), 0x0101_0101 * round);
    }
}

/// A device whose driver makes another buffer available whenever one is used.
#[derive(Debug)]
struct Endless {
    memory: GuestMemoryMmap,
    served: Sender<()>,
}

impl VirtioDevice for Endless {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn acknowledge(&mut self, _features: u64) {}

    fn queue_event(&mut self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        let Some((queue, mem)) = io.queue(index) else {
            return Ok(());
        };
        let at = GuestAddress(RINGS[1] + 2);
        let served = serve_queue(queue, mem, |_| {
            let available: u16 = self.memory.read_obj(at).unwrap();
            let more = available.wrapping_add(1);
            self.memory.write_obj(more, at).unwrap();
            0
        })?;
        // The test may have seen enough.
        let _ = self.served.send(());
        served.tell(index, io)
    }

    fn reset(&mut self) {}
}

#[test]
fn a_driver_that_never_runs_out_of_requests_keeps_nobody_from_the_registers() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let (sender, turns) = mpsc::channel();
    let device = Endless {
        memory: memory.clone(),
        served: sender,
    };
    let driver = Driver::in_memory(Box::new(device), memory);
    driver.accept(VERSION_1);
    assert_eq!(driver.try_queue(16, RINGS), 1);
    driver.write(0x70, READY | DRIVER_OK);
    driver.offer(0, 0x8000);
    driver.write(0x50, 0);
    for _ in 0..100 {
        turns.recv_timeout(Duration::from_secs(10)).expect("a turn");
        assert_eq!(driver.read(0x70), READY | DRIVER_OK);
    }
    // Ends it, too.
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
    let before = driver.used();
    while turns.try_recv().is_ok() {}
    assert_eq!(driver.used(), before);
}

#[test]
fn rings_that_overlap_so_that_there_is_always_more_and_nothing_to_find_break_the_device() {
    let driver = Driver::new();
    driver.accept(VERSION_1);
    // The used ring's flags, which turn notifications on and off, are the available ring's index.
    assert_eq!(driver.try_queue(16, [0x1000, 0x2002, 0x2004]), 1);
    driver.memory.write_obj(1u16, GuestAddress(0x2004)).unwrap();
    driver.write(0x70, READY | DRIVER_OK);
    assert_eq!(driver.interrupt(), 2);
    assert_eq!(driver.read(0x70), READY | DRIVER_OK | NEEDS_RESET);
}
