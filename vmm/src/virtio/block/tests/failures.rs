//! Requests that fail on the host.

use std::sync::{Arc, Mutex};

use microagent_proto::warning::DiskOperation;

use super::*;

/// A back end that fails every operation.
#[derive(Debug)]
struct Failing;

fn failed() -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EIO))
}

impl Backend for Failing {
    fn size(&self) -> u64 {
        SECTORS * SECTOR
    }

    fn read_only(&self) -> bool {
        false
    }

    fn durable(&self) -> bool {
        true
    }

    fn read_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        failed()
    }

    fn write_at(&mut self, _: crate::virtio::Segments<'_>, _: u64) -> io::Result<()> {
        failed()
    }

    fn discard(&mut self, _: u64, _: u64) -> io::Result<()> {
        failed()
    }

    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<()> {
        failed()
    }

    fn flush(&mut self) -> io::Result<()> {
        failed()
    }
}

#[test]
fn the_first_failure_of_each_kind_is_reported_before_the_guest_sees_it() {
    let mut device = Block::new(Box::new(Failing), "");
    let reports = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&reports);
    device.report_failures(move |operation, error| {
        let report = (operation, error.raw_os_error());
        kept.lock().unwrap().push(report);
    });
    let mut disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    disk.driver
        .write(DATA + 0x1000, &testing::block::range(0, 8, 0));
    let range = vec![readable(DATA + 0x1000, 16)];
    for (kind, data, operation) in [
        (
            VIRTIO_BLK_T_WRITE_ZEROES,
            range.clone(),
            Some(DiskOperation::Write),
        ),
        (VIRTIO_BLK_T_OUT, vec![readable(DATA, 512)], None),
        (
            VIRTIO_BLK_T_IN,
            vec![writable(DATA, 512)],
            Some(DiskOperation::Read),
        ),
        (VIRTIO_BLK_T_DISCARD, range, Some(DiskOperation::Discard)),
        (VIRTIO_BLK_T_FLUSH, vec![], Some(DiskOperation::Flush)),
    ] {
        for attempt in 0..2 {
            assert_eq!(disk.request(kind, 0, &data).0, 1);
            let expected = operation.filter(|_| attempt == 0);
            let reported = reports.lock().unwrap().pop();
            assert_eq!(reported, expected.map(|kind| (kind, Some(libc::EIO))));
        }
    }
}

#[test]
fn a_guests_own_mistake_is_not_a_failure_of_the_host() {
    let mut disk = Disk::new(|_| DiskMode::ReadOnly);
    disk.device
        .report_failures(|operation, error| panic!("{operation:?}: {error}"));
    let beyond = disk.request(VIRTIO_BLK_T_IN, SECTORS, &[writable(DATA, 512)]);
    assert_eq!(beyond.0, 1);
    let write = disk.request(VIRTIO_BLK_T_OUT, 0, &[readable(DATA, 512)]);
    assert_eq!(write.0, 1);
}
