//! The block device.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};

use microagent_vmm::virtio::block::{Backend, Block, Overlay, Raw};
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, VirtIOBlk};
use virtio_drivers::transport::{DeviceStatus, Transport};

use crate::memory::GuestPages;
use crate::transport::GuestTransport;
use crate::{
    INDIRECT, InterruptStatus, Interrupts, TransportKind, on_every_transport,
    with_each_ring_feature_set,
};

on_every_transport!(
    capacity_mode_and_serial_number_are_reported,
    written_data_is_read_back_and_is_in_the_file,
    an_overlay_is_read_and_written,
    a_read_only_disk_rejects_writes,
    an_access_beyond_the_end_fails_and_the_disk_stays_usable,
    many_requests_can_be_in_flight,
    a_second_driver_can_take_over_the_device,
);

const SECTOR: usize = 512;
const SECTORS: usize = 4096;

/// A driver of a disk.
type Driver = VirtIOBlk<GuestPages, GuestTransport>;

/// Every sector begins with its number.
fn content() -> Vec<u8> {
    let sector = |n: usize| {
        let mut bytes = [n as u8 ^ 0x5a; SECTOR];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    (0..SECTORS).flat_map(sector).collect()
}

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&content(), 0).unwrap();
    file
}

fn raw(read_only: bool) -> (Box<dyn Backend>, File) {
    let file = file();
    let len = (SECTORS * SECTOR) as u64;
    let backend = Raw::new(file.try_clone().unwrap(), len, read_only);
    (Box::new(backend), file)
}

fn drive(kind: TransportKind, backend: Box<dyn Backend>, masked: u64) -> Driver {
    let (device, _) = kind.attach(Box::new(Block::new(backend, "serial-0")), masked, 0);
    VirtIOBlk::new(device).unwrap()
}

fn capacity_mode_and_serial_number_are_reported(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut driver = drive(kind, raw(false).0, masked);
        assert_eq!(driver.capacity(), SECTORS as u64);
        assert!(!driver.readonly());
        let mut id = [0; 20];
        let len = driver.device_id(&mut id).unwrap();
        assert_eq!(&id[..len], b"serial-0");
    });
}

fn written_data_is_read_back_and_is_in_the_file(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (backend, file) = raw(false);
        let mut driver = drive(kind, backend, masked);
        let mut expected = content();
        let mut step = 1;
        for round in 0..64 {
            let at = (round * 61) % (SECTORS - 128);
            let len = (step % 128 + 1) * SECTOR;
            step = step * 7 % 131;
            let mut back = vec![0; len];
            driver.read_blocks(at, &mut back).unwrap();
            assert!(back == expected[at * SECTOR..][..len], "round {round}");
            let data: Vec<u8> = (0..len).map(|i| (i * 31 + round) as u8).collect();
            driver.write_blocks(at, &data).unwrap();
            expected[at * SECTOR..][..len].copy_from_slice(&data);
            driver.read_blocks(at, &mut back).unwrap();
            assert!(back == data, "round {round}");
        }
        driver.flush().unwrap();
        let mut written = vec![0; expected.len()];
        file.read_exact_at(&mut written, 0).unwrap();
        assert!(written == expected);
    });
}

fn an_overlay_is_read_and_written(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let base = file();
        let len = (SECTORS * SECTOR) as u64;
        let delta = tempfile::tempfile().unwrap();
        let overlay = Overlay::new(base.try_clone().unwrap(), len, delta).unwrap();
        let mut driver = drive(kind, Box::new(overlay), masked);
        driver.write_blocks(9, &[7; 3 * SECTOR]).unwrap();
        let mut back = vec![0; 8 * SECTOR];
        driver.read_blocks(6, &mut back).unwrap();
        let mut expected = content()[6 * SECTOR..14 * SECTOR].to_vec();
        expected[3 * SECTOR..6 * SECTOR].fill(7);
        assert!(back == expected);
        // The feature is not offered, so the driver does not send the request.
        driver.flush().unwrap();
        let mut untouched = vec![0; SECTORS * SECTOR];
        base.read_exact_at(&mut untouched, 0).unwrap();
        assert!(untouched == content());
    });
}

fn a_read_only_disk_rejects_writes(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (backend, file) = raw(true);
        let mut driver = drive(kind, backend, masked);
        assert!(driver.readonly());
        assert_eq!(driver.write_blocks(3, &[7; SECTOR]), Err(Error::IoError));
        let mut back = [0; SECTOR];
        driver.read_blocks(3, &mut back).unwrap();
        assert!(back == content()[3 * SECTOR..4 * SECTOR]);
        let mut untouched = vec![0; SECTORS * SECTOR];
        file.read_exact_at(&mut untouched, 0).unwrap();
        assert!(untouched == content());
    });
}

fn an_access_beyond_the_end_fails_and_the_disk_stays_usable(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let mut driver = drive(kind, raw(false).0, masked);
        let mut two = [0; 2 * SECTOR];
        for at in [SECTORS - 1, SECTORS, usize::MAX / SECTOR, usize::MAX] {
            assert_eq!(driver.read_blocks(at, &mut two), Err(Error::IoError));
            assert_eq!(driver.write_blocks(at, &two), Err(Error::IoError));
        }
        driver.read_blocks(SECTORS - 2, &mut two).unwrap();
    });
}

/// A request in flight.
struct Pending {
    token: u16,
    sector: usize,
    write: bool,
    request: Box<BlkReq>,
    data: Vec<u8>,
    answer: Box<BlkResp>,
}

fn submit(driver: &mut Driver, sector: usize, write: bool, data: Vec<u8>) -> Option<Pending> {
    let mut pending = Pending {
        token: 0,
        sector,
        write,
        request: Box::default(),
        data,
        answer: Box::default(),
    };
    let Pending {
        request,
        data,
        answer,
        ..
    } = &mut pending;
    // SAFETY: needed because the driver keeps the buffers. They are on the heap and are not
    // accessed before `complete` has passed them back to the driver.
    let result = unsafe {
        if write {
            driver.write_blocks_nb(sector, request, data, answer)
        } else {
            driver.read_blocks_nb(sector, request, data, answer)
        }
    };
    match result {
        Ok(token) => {
            pending.token = token;
            Some(pending)
        }
        Err(Error::QueueFull) => None,
        Err(error) => panic!("{error}"),
    }
}

fn complete(driver: &mut Driver, pending: &mut Pending) {
    let Pending {
        token,
        request,
        data,
        answer,
        ..
    } = pending;
    // SAFETY: needed for the same reason. `submit` passed these buffers for this token.
    unsafe {
        if pending.write {
            driver.complete_write_blocks(*token, request, data, answer)
        } else {
            driver.complete_read_blocks(*token, request, data, answer)
        }
    }
    .unwrap();
    assert_eq!(pending.answer.status(), RespStatus::OK);
}

/// Waits until one of these requests is complete; `None` if there are none.
fn finish_one(
    driver: &mut Driver,
    interrupts: &Interrupts,
    flight: &mut Vec<Pending>,
) -> Option<Pending> {
    if flight.is_empty() {
        return None;
    }
    loop {
        // Makes the driver's `used_event` or flags visible before the used ring is read again
        // (virtio 1.2 section 2.7.7); the driver crate leaves this fence to its caller.
        fence(Ordering::SeqCst);
        if let Some(token) = driver.peek_used() {
            let at = flight.iter().position(|pending| pending.token == token);
            let mut pending = flight.swap_remove(at.expect("a request that is in flight"));
            complete(driver, &mut pending);
            return Some(pending);
        }
        interrupts.wait();
        let _: InterruptStatus = driver.ack_interrupt();
    }
}

fn many_requests_can_be_in_flight(kind: TransportKind) {
    with_each_ring_feature_set(|masked| {
        let (backend, _file) = raw(false);
        let block = Box::new(Block::new(backend, ""));
        let (device, interrupts) = kind.attach(block, masked, 0);
        let mut driver: Driver = VirtIOBlk::new(device.nonblocking()).unwrap();
        let mut expected = content();
        let mut flight = Vec::new();
        let mut most = 0;
        for round in 0..400usize {
            let sector = (round * 8) % SECTORS;
            let write = round % 3 == 0;
            let data = vec![round as u8; 4 * SECTOR];
            loop {
                if let Some(pending) = submit(&mut driver, sector, write, data.clone()) {
                    flight.push(pending);
                    break;
                }
                let done = finish_one(&mut driver, &interrupts, &mut flight).unwrap();
                check(&done, &mut expected);
            }
            most = most.max(flight.len());
        }
        while let Some(done) = finish_one(&mut driver, &interrupts, &mut flight) {
            check(&done, &mut expected);
        }
        // The queue has 16 descriptors. A request takes one with an indirect table, three without.
        assert_eq!(most, if masked & INDIRECT == 0 { 16 } else { 5 });
        assert_eq!(driver.virt_queue_size(), 16);
    });
}

/// Sectors repeat only every 512 rounds, so no two requests in flight overlap.
fn check(done: &Pending, expected: &mut [u8]) {
    let range = done.sector * SECTOR..done.sector * SECTOR + done.data.len();
    if done.write {
        expected[range].copy_from_slice(&done.data);
    } else {
        assert!(done.data == expected[range], "sector {}", done.sector);
    }
}

fn a_second_driver_can_take_over_the_device(kind: TransportKind) {
    let (backend, _file) = raw(false);
    let (device, _) = kind.attach(Box::new(Block::new(backend, "")), 0, 0);
    for round in 0..3 {
        let mut driver: Driver = VirtIOBlk::new(device.clone()).unwrap();
        driver.write_blocks(round, &[round as u8; SECTOR]).unwrap();
        let mut back = [0xff; SECTOR];
        driver.read_blocks(round, &mut back).unwrap();
        assert_eq!(back, [round as u8; SECTOR]);
    }
}

/// On virtio-mmio only: the vhost-user back end does not report configuration changes.
#[test]
fn replacing_the_backend_raises_a_configuration_interrupt() {
    let (device, slot) = Block::with_slot(raw(false).0, "").unwrap();
    let (mut attached, interrupts) = TransportKind::Mmio.attach(Box::new(device), 0, 0);
    let mut driver: Driver = VirtIOBlk::new(attached.clone().nonblocking()).unwrap();
    assert_eq!(driver.capacity(), SECTORS as u64);
    let before = attached.read_config_generation();

    let other = tempfile::tempfile().unwrap();
    other.write_all_at(&[9; 8 * SECTOR], 0).unwrap();
    let other = Raw::new(other, 8 * SECTOR as u64, false);
    slot.attach(Box::new(other)).unwrap();
    interrupts.wait();
    let wanted = InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT;
    assert!(driver.ack_interrupt() == wanted);
    assert_ne!(attached.read_config_generation(), before);
    let capacity: u32 = attached.read_config_space(0).unwrap();
    assert_eq!(capacity, 8);

    drop(driver);
    attached.set_status(DeviceStatus::empty());
    let mut driver: Driver = VirtIOBlk::new(attached).unwrap();
    assert_eq!(driver.capacity(), 8);
    let mut back = [0; SECTOR];
    driver.read_blocks(7, &mut back).unwrap();
    assert_eq!(back, [9; SECTOR]);
}
