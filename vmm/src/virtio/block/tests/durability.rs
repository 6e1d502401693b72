//! When writes are flushed to the host, and when the driver is notified.

use std::sync::{Arc, Mutex};

use super::*;

/// A back end that records its calls.
#[derive(Debug)]
struct Recorder {
    log: Arc<Mutex<Vec<&'static str>>>,
    durable: bool,
}

impl Recorder {
    fn record(&self, what: &'static str) -> io::Result<()> {
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
        self.record("read")
    }

    fn write_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        self.record("write")
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        self.record("discard")
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        self.record("zero")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.record("flush")
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

/// Sends a write, a read, a write-zeroes and a flush request.
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
fn writes_are_flushed_when_the_driver_asks() {
    let (mut disk, log) = recorded(true);
    disk.device.acknowledge(1 << VIRTIO_BLK_F_FLUSH);
    work(&mut disk);
    assert_eq!(*log.lock().unwrap(), ["write", "read", "zero", "flush"]);
}

#[test]
fn each_write_is_flushed_for_a_driver_without_flush() {
    let (mut disk, log) = recorded(true);
    disk.device.acknowledge(0);
    work(&mut disk);
    let expected = ["write", "flush", "read", "zero", "flush", "flush"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn a_backend_that_is_not_durable_is_never_flushed() {
    let (mut disk, log) = recorded(false);
    disk.device.acknowledge(0);
    work(&mut disk);
    assert_eq!(*log.lock().unwrap(), ["write", "read", "zero"]);
}

#[test]
fn a_batch_of_requests_causes_one_notification() {
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

/// The kinds of all requests that were completed after each event, until the queue is empty.
fn batches(disk: &mut Disk, kinds: &[u32]) -> Vec<usize> {
    let range = testing::block::range(0, 8, 0);
    disk.driver.write(DATA + 0x1000, &range);
    for (number, &kind) in (0..).zip(kinds) {
        let at = HEADER + 0x10 + 0x20 * number;
        disk.driver.write(at, &testing::block::header(kind, 0));
        let data = match kind {
            VIRTIO_BLK_T_IN => vec![writable(DATA, 512)],
            VIRTIO_BLK_T_OUT => vec![readable(DATA, 512)],
            VIRTIO_BLK_T_FLUSH => vec![],
            _ => vec![readable(DATA + 0x1000, 16)],
        };
        let request = testing::block::request(at, &data, STATUS + 0x400 + number);
        disk.driver.offer(0, &request);
    }
    let mut batches = Vec::new();
    loop {
        disk.device.queue_event(0, &mut disk.driver).unwrap();
        batches.push(disk.driver.used(0).len());
        assert_eq!(disk.driver.notified, [batches.len()]);
        if std::mem::take(&mut disk.driver.rescheduled).is_empty() {
            return batches;
        }
    }
}

#[test]
fn completed_requests_are_reported_before_a_slow_one() {
    use {
        VIRTIO_BLK_T_DISCARD as DISCARD, VIRTIO_BLK_T_FLUSH as FLUSH, VIRTIO_BLK_T_IN as IN,
        VIRTIO_BLK_T_OUT as OUT, VIRTIO_BLK_T_WRITE_ZEROES as ZERO,
    };
    let flushed = |kinds: &[u32]| {
        let (mut disk, _) = recorded(true);
        disk.device.acknowledge(1 << VIRTIO_BLK_F_FLUSH);
        batches(&mut disk, kinds)
    };
    assert_eq!(flushed(&[IN, OUT, IN]), [3]);
    assert_eq!(flushed(&[IN, OUT, FLUSH, IN]), [2, 2]);
    assert_eq!(flushed(&[FLUSH, IN, FLUSH, FLUSH]), [2, 1, 1]);
    assert_eq!(flushed(&[OUT, DISCARD, OUT, ZERO]), [1, 2, 1]);
    let (mut write_through, _) = recorded(true);
    write_through.device.acknowledge(0);
    assert_eq!(batches(&mut write_through, &[IN, OUT, OUT]), [1, 1, 1]);
    // A flush of a delta is refused at once.
    let (mut overlay, _) = recorded(false);
    overlay.device.acknowledge(0);
    assert_eq!(batches(&mut overlay, &[IN, FLUSH, OUT]), [3]);
}
