//! Replacing the back end.

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
