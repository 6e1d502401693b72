//! When the host is asked to make writes durable, and when the driver is told of what was done.

use std::sync::{Arc, Mutex};

use super::*;

/// A disk in memory that writes down what it was asked.
#[derive(Debug)]
struct Recorder {
    log: Arc<Mutex<Vec<&'static str>>>,
    durable: bool,
}

impl Recorder {
    fn note(&self, what: &'static str) -> io::Result<()> {
        self.log.lock().unwrap().push(what);
        Ok(())
    }
}

impl Backend for Recorder {
    fn size(&self) -> u64 {
        SECTORS * SECTOR
    }

    fn read_only(&self) -> bool {
        false
    }

    fn durable(&self) -> bool {
        self.durable
    }

    fn read_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        self.note("read")
    }

    fn write_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        self.note("write")
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        self.note("discard")
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        self.note("zero")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.note("flush")
    }
}

fn recorded(durable: bool) -> (Disk, Arc<Mutex<Vec<&'static str>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let backend = Recorder {
        log: Arc::clone(&log),
        durable,
    };
    let device = Block::new(Box::new(backend), "");
    let disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    (disk, log)
}

/// A write, a read, zeros, and a flush.
fn work(disk: &mut Disk) {
    let range = testing::block::range(0, 8, 0);
    disk.driver.write(DATA + 0x1000, &range);
    for (kind, data) in [
        (VIRTIO_BLK_T_OUT, vec![readable(DATA, 512)]),
        (VIRTIO_BLK_T_IN, vec![writable(DATA, 512)]),
        (VIRTIO_BLK_T_WRITE_ZEROES, vec![readable(DATA + 0x1000, 16)]),
        (VIRTIO_BLK_T_FLUSH, vec![]),
    ] {
        disk.request(kind, 0, &data);
    }
}

#[test]
fn a_driver_that_flushes_decides_when() {
    let (mut disk, log) = recorded(true);
    disk.device.acknowledge(1 << VIRTIO_BLK_F_FLUSH);
    work(&mut disk);
    assert_eq!(*log.lock().unwrap(), ["write", "read", "zero", "flush"]);
}

#[test]
fn each_write_is_durable_for_a_driver_that_does_not_flush() {
    let (mut disk, log) = recorded(true);
    disk.device.acknowledge(0);
    work(&mut disk);
    let expected = ["write", "flush", "read", "zero", "flush", "flush"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn what_does_not_last_is_never_flushed() {
    let (mut disk, log) = recorded(false);
    disk.device.acknowledge(0);
    work(&mut disk);
    assert_eq!(*log.lock().unwrap(), ["write", "read", "zero"]);
}

#[test]
fn a_batch_of_requests_is_told_once() {
    let (mut disk, log) = recorded(false);
    disk.driver.write(HEADER, &[0; 16]);
    for _ in 0..50 {
        let request = testing::block::request(HEADER, &[writable(DATA, 512)], STATUS);
        disk.driver.offer(0, &request);
    }
    disk.device.queue_event(0, &mut disk.driver).unwrap();
    assert_eq!(log.lock().unwrap().len(), 50);
    assert_eq!(disk.driver.used(0).len(), 50);
    assert_eq!(disk.driver.notified, [1]);
}
