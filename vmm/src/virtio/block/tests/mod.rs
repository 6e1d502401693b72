//! The block device, with the test driver.

mod durability;
mod failures;
mod ranges;
mod slot;

use std::os::unix::fs::FileExt;

use microagent_proto::control::{DiskConfig, DiskMode};
use proptest::prelude::*;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::ByteValued;

use super::*;
use crate::virtio::testing::{self, BUFFERS, Buffer, Driver, readable, writable};

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const DATA: u64 = BUFFERS + 0x1000;
const MEMORY: usize = 0x40_0000;
const SECTORS: u64 = 64;

struct Disk {
    device: Block,
    driver: Driver,
    _dir: tempfile::TempDir,
    file: std::fs::File,
}

impl Disk {
    fn new(mode: impl FnOnce(&std::path::Path) -> DiskMode) -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let content: Vec<u8> = (0..SECTORS * SECTOR).map(|i| (i / SECTOR) as u8).collect();
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let device = open(
            &DiskConfig {
                path,
                mode: mode(dir.path()),
            },
            "serial",
        )
        .unwrap();
        let driver = Driver::new(&device, MEMORY);
        Disk {
            device,
            driver,
            _dir: dir,
            file,
        }
    }

    fn overlay() -> Disk {
        Disk::new(|dir| DiskMode::Overlay {
            scratch_dir: dir.to_owned(),
        })
    }

    /// Sends one request with these data buffers; its status byte and used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Buffer]) -> (u8, u32) {
        let header = testing::block::header(kind, sector);
        self.driver.write(HEADER, &header);
        self.driver.write(STATUS, &[0xee]);
        let buffers = testing::block::request(HEADER, data, STATUS);
        let head = self.driver.offer(0, &buffers);
        self.device.queue_event(0, &mut self.driver).unwrap();
        let used = self.driver.used(0);
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, head);
        (self.driver.read(STATUS, 1)[0], used[0].1)
    }
}

#[test]
fn several_data_segments_are_read_and_written_in_order() {
    let mut disk = Disk::new(|_| DiskMode::ReadWrite);
    let into = [writable(DATA, 512), writable(DATA + 0x3000, 1024)];
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 5, &into), (0, 1537));
    assert_eq!(disk.driver.read(DATA, 512), [5; 512]);
    assert_eq!(
        disk.driver.read(DATA + 0x3000, 1024),
        [[6; 512], [7; 512]].concat()
    );

    disk.driver.write(DATA, &[0xaa; 512]);
    disk.driver.write(DATA + 0x1000, &[0xbb; 512]);
    let from = [readable(DATA, 512), readable(DATA + 0x1000, 512)];
    assert_eq!(disk.request(VIRTIO_BLK_T_OUT, 10, &from), (0, 1));
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (0, 1));
    let mut written = [0; 1536];
    disk.file.read_exact_at(&mut written, 10 * SECTOR).unwrap();
    assert_eq!(&written[..], [[0xaa; 512], [0xbb; 512], [12; 512]].concat());
}

#[test]
fn an_overlay_holds_writes_and_does_not_change_its_base() {
    let mut disk = Disk::overlay();
    disk.driver.write(DATA, &[0xaa; 512]);
    assert_eq!(
        disk.request(VIRTIO_BLK_T_OUT, 1, &[readable(DATA, 512)]),
        (0, 1)
    );
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, 0, &[writable(DATA, 1536)]),
        (0, 1537)
    );
    assert_eq!(
        disk.driver.read(DATA, 1536),
        [[0; 512], [0xaa; 512], [2; 512]].concat()
    );
    let mut base = [0; 512];
    disk.file.read_exact_at(&mut base, SECTOR).unwrap();
    assert_eq!(base, [1; 512]);
}

#[test]
fn features_and_configuration_match_the_backend() {
    let offers = |disk: &Disk, bit: u32| disk.device.features() >> bit & 1 == 1;
    let overlay = Disk::overlay();
    assert!(!offers(&overlay, VIRTIO_BLK_F_FLUSH) && !offers(&overlay, VIRTIO_BLK_F_RO));
    let read_write = Disk::new(|_| DiskMode::ReadWrite);
    assert!(offers(&read_write, VIRTIO_BLK_F_FLUSH) && !offers(&read_write, VIRTIO_BLK_F_RO));
    let read_only = Disk::new(|_| DiskMode::ReadOnly);
    assert!(!offers(&read_only, VIRTIO_BLK_F_FLUSH) && offers(&read_only, VIRTIO_BLK_F_RO));
    for bit in [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES] {
        assert!(offers(&overlay, bit) && offers(&read_write, bit) && !offers(&read_only, bit));
    }

    let mut config = [0xff; 64];
    read_only.device.read_config(0, &mut config);
    assert_eq!(config[0..8], SECTORS.to_le_bytes());
    assert_eq!(config[12..16], 254u32.to_le_bytes());
    assert_eq!(config[20..24], 512u32.to_le_bytes());
    // Topology, discard, write zeroes; virtio 1.2 section 5.2.4.
    assert_eq!(config[24..32], [3, 0, 8, 0, 0, 0, 0, 0]);
    assert_eq!(config[36..40], (1u32 << 22).to_le_bytes());
    assert_eq!(config[40..44], 16u32.to_le_bytes());
    assert_eq!(config[44..48], 8u32.to_le_bytes());
    assert_eq!(config[48..52], (1u32 << 15).to_le_bytes());
    assert_eq!(config[52..60], [16, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(config[60..], [0; 4]);
    let mut beyond = [0xff; 4];
    read_only.device.read_config(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 4]);
}

#[test]
fn invalid_requests_complete_with_an_error_status() {
    let (ok, failed, unsupported) = (0, 1, 2);
    let mut disk = Disk::new(|_| DiskMode::ReadOnly);
    let one = [writable(DATA, 512)];
    assert_eq!(
        disk.request(VIRTIO_BLK_T_OUT, 0, &[readable(DATA, 512)]).0,
        failed
    );
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, SECTORS - 1, &one).0, ok);
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, SECTORS, &one), (failed, 1));
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, u64::MAX, &one).0, failed);
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, u64::MAX / SECTOR, &one).0,
        failed
    );
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, 0, &[writable(DATA, 100)]).0,
        failed
    );
    assert_eq!(disk.request(VIRTIO_BLK_T_FLUSH, 0, &[]).0, unsupported);
    assert_eq!(disk.request(VIRTIO_BLK_T_DISCARD, 0, &[]).0, unsupported);
    assert_eq!(disk.request(0xffff_ffff, 0, &one).0, unsupported);
    assert_eq!(
        disk.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(DATA, 20)]),
        (ok, 21)
    );
    assert_eq!(
        disk.driver.read(DATA, 20),
        b"serial\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
}

#[test]
fn a_request_with_as_many_segments_as_the_queue_has_is_served() {
    let mut disk = Disk::overlay();
    let segments: Vec<Buffer> = (0..254)
        .map(|i| writable(DATA + i * 512, if i < 60 { 512 } else { 0 }))
        .collect();
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, 0, &segments),
        (0, 60 * 512 + 1)
    );
    assert_eq!(disk.driver.read(DATA + 59 * 512, 512), [59; 512]);
}

#[test]
fn a_chain_without_room_for_a_status_is_returned() {
    let mut disk = Disk::overlay();
    let ring = disk.driver.ring(0);
    let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
    let indirect = VRING_DESC_F_INDIRECT as u16;
    // A loop; a next index outside the table; an indirect table in an indirect table; no status;
    // no header; a buffer outside memory; readable after writable.
    let table = Descriptor::new(DATA, 32, indirect, 0);
    disk.driver.write(DATA, table.as_slice());
    for (descriptor, index) in [
        Descriptor::new(DATA, 16, next, 0),
        Descriptor::new(DATA, 16, next, 256),
        table,
        Descriptor::new(HEADER, 16, 0, 0),
        Descriptor::new(STATUS, 1, write, 0),
        Descriptor::new(u64::MAX, u32::MAX, write, 0),
        Descriptor::new(DATA, 16, write | next, 3),
    ]
    .into_iter()
    .zip(0..)
    {
        ring.describe(index, descriptor);
        ring.publish(index);
    }
    disk.device.queue_event(0, &mut disk.driver).unwrap();
    let used = disk.driver.used(0);
    assert_eq!(used, (0..7).map(|head| (head, 0)).collect::<Vec<_>>());
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, 0, &[writable(DATA, 512)]).0,
        0
    );
}

#[test]
fn an_invalid_ring_is_an_error() {
    let mut disk = Disk::overlay();
    disk.driver.ring(0).set_available_index(257);
    assert!(disk.device.queue_event(0, &mut disk.driver).is_err());
    let mut disk = Disk::overlay();
    disk.driver.ring(0).publish(256);
    assert!(disk.device.queue_event(0, &mut disk.driver).is_err());
}

#[test]
fn a_full_host_disk_fails_only_the_request() {
    let base = tempfile::tempfile().unwrap();
    base.set_len(SECTORS * SECTOR).unwrap();
    // Writes to it always fail with ENOSPC.
    let full = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    let device = Block::new(Box::new(Raw::new(full, SECTORS * SECTOR, false)), "");
    let mut disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    assert_eq!(
        disk.request(VIRTIO_BLK_T_OUT, 0, &[readable(DATA, 512)]),
        (1, 1)
    );
    assert_eq!(
        disk.request(VIRTIO_BLK_T_IN, 0, &[writable(DATA, 512)]).0,
        0
    );
}

fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => HEADER..HEADER + 0x4000,
        1 => (MEMORY as u64 - 64)..(MEMORY as u64 + 64),
        1 => any::<u64>(),
    ]
}

fn any_length() -> impl Strategy<Value = u32> {
    prop_oneof![2 => 0u32..64, 2 => (0u32..8).prop_map(|n| n * 512), 1 => any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// For any ring content, every head is returned once, or the ring is an error.
    #[test]
    fn any_descriptors_are_returned(
        descriptors in prop::collection::vec((any_address(), any_length(), 0u16..8, 0u16..20), 1..16),
        heads in prop::collection::vec(prop_oneof![9 => 0u16..16, 1 => any::<u16>()], 1..32),
        header in any::<[u8; 16]>(),
        kind in 0u8..15,
    ) {
        let mut disk = Disk::overlay();
        let mut header = header;
        header[0..4].copy_from_slice(&[kind, 0, 0, 0]);
        header[9..16].fill(0);
        disk.driver.write(HEADER, &header);
        for (index, &(addr, len, flags, next)) in (0..).zip(&descriptors) {
            let descriptor = Descriptor::new(addr, len, flags, next);
            disk.driver.ring(0).describe(index, descriptor);
        }
        for &head in &heads {
            disk.driver.ring(0).publish(head);
        }
        if disk.device.queue_event(0, &mut disk.driver).is_ok() {
            let used: Vec<u16> = disk.driver.used(0).iter().map(|&(head, _)| head).collect();
            prop_assert_eq!(used, heads);
        } else {
            prop_assert!(heads.iter().any(|&head| head >= 256));
        }
    }
}
