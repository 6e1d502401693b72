//! Replacing the back end.

use std::sync::{Arc, Mutex};

use super::*;

fn image(sectors: u64, byte: u8) -> std::fs::File {
    let file = tempfile::tempfile().unwrap();
    let content = vec![byte; (sectors * SECTOR) as usize];
    file.write_all_at(&content, 0).unwrap();
    file
}

fn raw(sectors: u64, byte: u8, read_only: bool) -> Box<dyn Backend> {
    let file = image(sectors, byte);
    Box::new(Raw::new(file, sectors * SECTOR, read_only))
}

fn disk_with_slot() -> (Disk, Slot) {
    let (device, slot) = Block::with_slot(raw(8, 1, false), "slot").unwrap();
    let disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    (disk, slot)
}

fn first_byte(disk: &mut Disk) -> u8 {
    let answer = disk.request(VIRTIO_BLK_T_IN, 0, &[writable(DATA, 512)]);
    assert_eq!(answer, (0, 513));
    disk.driver.read(DATA, 1)[0]
}

fn sectors(disk: &Disk) -> u64 {
    let mut bytes = [0; 8];
    disk.device.read_config(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn readable_now(disk: &Disk) -> bool {
    testing::poll_readable(disk.device.backend_fd().unwrap(), 0)
}

#[test]
fn the_next_request_goes_to_the_attached_backend() {
    let (mut disk, slot) = disk_with_slot();
    assert_eq!((first_byte(&mut disk), sectors(&disk)), (1, 8));
    slot.attach(raw(16, 2, false)).unwrap();
    assert_eq!((first_byte(&mut disk), sectors(&disk)), (2, 16));
    assert_eq!(disk.driver.config_changes, 1);
    assert!(!readable_now(&disk), "there is nothing left to handle");
}

#[test]
fn a_different_size_is_reported_to_the_guest() {
    let (mut disk, slot) = disk_with_slot();
    assert!(!readable_now(&disk));
    slot.attach(raw(8, 2, false)).unwrap();
    slot.attach(raw(24, 3, false)).unwrap();
    assert!(readable_now(&disk));
    disk.device.backend_event(&mut disk.driver).unwrap();
    assert!(!readable_now(&disk));
    assert_eq!((sectors(&disk), disk.driver.config_changes), (24, 1));
    assert_eq!(first_byte(&mut disk), 3);
    // The same size is not reported.
    slot.attach(raw(24, 4, false)).unwrap();
    disk.device.backend_event(&mut disk.driver).unwrap();
    assert_eq!((first_byte(&mut disk), disk.driver.config_changes), (4, 1));
}

#[test]
fn a_backend_of_another_kind_is_rejected() {
    let (mut disk, slot) = disk_with_slot();
    assert_eq!(slot.attach(raw(8, 2, true)), Err(IncompatibleBackend));
    let overlay = Overlay::new(image(8, 2), 8 * SECTOR, tempfile::tempfile().unwrap());
    assert_eq!(
        slot.attach(Box::new(overlay.unwrap())),
        Err(IncompatibleBackend)
    );
    assert!(!readable_now(&disk));
    assert_eq!(first_byte(&mut disk), 1);
}

/// A back end that, when it is read, attaches another one: as if the guest published its next
/// request after that, while the device still works on the first.
#[derive(Debug)]
struct Attaching {
    slot: Arc<Mutex<Option<Slot>>>,
}

impl Backend for Attaching {
    fn size(&self) -> u64 {
        8 * SECTOR
    }

    fn read_only(&self) -> bool {
        false
    }

    fn durable(&self) -> bool {
        true
    }

    fn read_at(&mut self, into: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        into.copy_from(&[1; 512]);
        let slot = self.slot.lock().unwrap().take().unwrap();
        slot.attach(raw(16, 2, false)).unwrap();
        Ok(())
    }

    fn write_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backend_that_is_attached_during_a_batch_serves_the_rest_of_it() {
    let shared = Arc::new(Mutex::new(None));
    let backend = Attaching {
        slot: Arc::clone(&shared),
    };
    let (device, slot) = Block::with_slot(Box::new(backend), "slot").unwrap();
    *shared.lock().unwrap() = Some(slot);
    let mut disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    disk.driver.write(HEADER, &[0; 16]);
    for at in [DATA, DATA + 0x1000] {
        let request = testing::block::request(HEADER, &[writable(at, 512)], STATUS);
        disk.driver.offer(0, &request);
    }
    disk.device.queue_event(0, &mut disk.driver).unwrap();
    assert_eq!(disk.driver.used(0).len(), 2);
    let bytes = [DATA, DATA + 0x1000].map(|at| disk.driver.read(at, 1)[0]);
    assert_eq!(bytes, [1, 2]);
    assert_eq!((sectors(&disk), disk.driver.config_changes), (16, 1));
}
