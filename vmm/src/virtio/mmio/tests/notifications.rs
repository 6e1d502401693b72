//! Interrupts, queue notifications and configuration changes (virtio 1.2 sections 2.5.1, 2.7.7 and
//! 2.7.10).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::virtio::serve::serve_queue;
use crate::virtio::{DeviceError, DeviceIo, VirtioDevice};

#[test]
fn a_buffer_is_filled_and_its_interrupt_acknowledged() {
    let driver = Driver::live(0);
    driver.assert_served(0);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0);
    assert_ne!(driver.bytes(BUFFER, 64), [0; 64]);
}

#[test]
fn a_driver_can_suppress_interrupts() {
    let driver = Driver::live(0);
    driver
        .ring
        .set_available_flags(VRING_AVAIL_F_NO_INTERRUPT as u16);
    driver.offer(0);
    driver.write(QUEUE_NOTIFY, 0);
    // `stop` below waits until the device is idle.
    while driver.ring.used_index() == 0 {
        std::thread::yield_now();
    }
    let (_, interrupts) = driver.stop();
    assert_eq!(interrupts, 0);
}

/// A device whose configuration is a counter of backend events.
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
fn a_configuration_change_raises_an_interrupt_and_changes_the_generation() {
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let driver = Driver::of(Box::new(Changing {
        event: event.try_clone().unwrap(),
        count: 0,
    }));
    driver.negotiate(VERSION_1);
    driver.write(STATUS, READY);
    for round in 1..=3 {
        let before = (driver.read(CONFIG_GENERATION), driver.read(CONFIG));
        assert_eq!(
            before,
            (driver.read(CONFIG_GENERATION), driver.read(CONFIG)),
            "stable"
        );
        rustix::io::write(&event, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(driver.interrupt(), 2, "configuration change");
        driver.write(INTERRUPT_ACK, 2);
        assert_eq!(driver.read(INTERRUPT_STATUS), 0);
        assert_ne!(driver.read(CONFIG_GENERATION), before.0);
        assert_eq!(driver.read(CONFIG), 0x0101_0101 * round);
    }
}

/// A device that makes another buffer available for each one that it uses.
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
        // The test may be over.
        let _ = self.served.send(());
        served.notify(index, io)
    }

    fn reset(&mut self) {}
}

#[test]
fn an_endless_supply_of_requests_does_not_block_the_registers() {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let (sender, events) = mpsc::channel();
    let device = Endless {
        memory: memory.clone(),
        served: sender,
    };
    let driver = Driver::in_memory(Box::new(device), memory);
    driver.negotiate(VERSION_1);
    driver.go_live();
    driver.offer(0);
    driver.write(QUEUE_NOTIFY, 0);
    for _ in 0..100 {
        events
            .recv_timeout(Duration::from_secs(10))
            .expect("another event");
        assert_eq!(driver.read(STATUS), READY);
    }
    // A reset stops the device.
    driver.write(STATUS, 0);
    assert_eq!(driver.read(STATUS), 0);
    let before = driver.ring.used_index();
    while events.try_recv().is_ok() {}
    assert_eq!(driver.ring.used_index(), before);
}

#[test]
fn rings_that_overlap_such_that_the_index_goes_backwards_set_needs_reset() {
    let driver = Driver::new();
    driver.negotiate(VERSION_1);
    // The used ring's flags, which enable notifications, are the available ring's index.
    assert!(driver.try_queue(16, [0x1000, 0x2002, 0x2004]));
    driver.memory.write_obj(1u16, GuestAddress(0x2004)).unwrap();
    driver.write(STATUS, READY);
    assert_eq!(driver.interrupt(), 2);
    assert_eq!(driver.read(STATUS), READY | NEEDS_RESET);
}
