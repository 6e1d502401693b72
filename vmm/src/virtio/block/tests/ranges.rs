//! Discard and write-zeroes requests.

use std::os::unix::fs::MetadataExt;

use super::*;

const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;
const UNMAP: u32 = 1;
const BOTH: [u32; 2] = [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES];

/// Sends a request with these ranges (sector, count, flags); its status.
fn send(disk: &mut Disk, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let ranges = ranges.iter();
    let bytes: Vec<u8> = ranges
        .flat_map(|&(sector, count, flags)| testing::block::range(sector, count, flags))
        .collect();
    disk.driver.write(DATA, &bytes);
    // Split within a range: framing is up to the driver.
    let len = bytes.len() as u32;
    let split = (len / 2 + 3).min(len);
    let data = [
        readable(DATA, split),
        readable(DATA + u64::from(split), len - split),
    ];
    let (status, written) = disk.request(kind, 0, &data);
    assert_eq!(written, 1);
    status
}

/// The first byte of each sector, if all its bytes are the same.
fn sectors(disk: &mut Disk) -> Vec<Option<u8>> {
    let len = (SECTORS * SECTOR) as u32;
    let into = [writable(DATA + 0x1_0000, len)];
    assert_eq!(disk.request(VIRTIO_BLK_T_IN, 0, &into).0, OK);
    let data = disk.driver.read(DATA + 0x1_0000, len as usize);
    let sectors = data.chunks(SECTOR as usize);
    sectors
        .map(|sector| {
            let first = sector[0];
            sector.iter().all(|&byte| byte == first).then_some(first)
        })
        .collect()
}

fn expected(zero: impl Fn(u64) -> bool) -> Vec<Option<u8>> {
    let sector = |n: u64| if zero(n) { 0 } else { n as u8 };
    (0..SECTORS).map(|n| Some(sector(n))).collect()
}

fn writable_disks() -> [Disk; 2] {
    [Disk::new(|_| DiskMode::ReadWrite), Disk::overlay()]
}

#[test]
fn several_ranges_are_filled_with_zeros() {
    for flags in [0, UNMAP] {
        for mut disk in writable_disks() {
            let ranges = [
                (3, 1, flags),
                (7, 20, flags),
                (63, 1, flags),
                (40, 0, flags),
            ];
            assert_eq!(send(&mut disk, VIRTIO_BLK_T_WRITE_ZEROES, &ranges), OK);
            let zero = |n| n == 3 || (7..27).contains(&n) || n == 63;
            assert_eq!(sectors(&mut disk), expected(zero));
        }
    }
}

#[test]
fn a_discard_frees_whole_blocks() {
    // A raw image frees sectors, an overlay blocks of eight sectors.
    let [mut raw, mut overlay] = writable_disks();
    for disk in [&mut raw, &mut overlay] {
        assert_eq!(
            send(disk, VIRTIO_BLK_T_DISCARD, &[(8, 16, 0), (39, 10, 0)]),
            OK
        );
    }
    let got = sectors(&mut raw);
    assert_eq!(
        got,
        expected(|n| (8..24).contains(&n) || (39..49).contains(&n))
    );
    let got = sectors(&mut overlay);
    assert_eq!(
        got,
        expected(|n| (8..24).contains(&n) || (40..48).contains(&n))
    );
    let before = SECTORS * SECTOR;
    assert!(raw.file.metadata().unwrap().blocks() * 512 < before);
}

#[test]
fn an_overlay_does_not_change_its_base() {
    let mut disk = Disk::overlay();
    for kind in BOTH {
        assert_eq!(send(&mut disk, kind, &[(0, SECTORS as u32, 0)]), OK);
    }
    assert_eq!(sectors(&mut disk), expected(|_| true));
    let mut base = [0; 512];
    disk.file.read_exact_at(&mut base, 9 * SECTOR).unwrap();
    assert_eq!(base, [9; 512]);
}

#[test]
fn one_invalid_range_leaves_all_ranges_unchanged() {
    let past = SECTORS as u32;
    for mut disk in writable_disks() {
        for kind in BOTH {
            for wrong in [
                (0, past + 1, 0),
                (SECTORS, 1, 0),
                (u64::MAX, 1, 0),
                (u64::MAX / 512, 2, 0),
            ] {
                assert_eq!(
                    send(&mut disk, kind, &[(8, 8, 0), wrong]),
                    FAILED,
                    "{wrong:?}"
                );
            }
            assert_eq!(send(&mut disk, kind, &[(8, 8, 0), (0, 8, 2)]), UNSUPPORTED);
            assert_eq!(send(&mut disk, kind, &[(0, 8, 0); 17]), FAILED, "too many");
            assert_eq!(send(&mut disk, kind, &[]), FAILED);
            let part = disk.request(kind, 0, &[readable(DATA, 24)]);
            assert_eq!(part, (FAILED, 1), "one range and a half");
        }
        let unmap = [(8, 8, UNMAP)];
        assert_eq!(send(&mut disk, VIRTIO_BLK_T_DISCARD, &unmap), UNSUPPORTED);
        assert_eq!(sectors(&mut disk), expected(|_| false));
    }
}

#[test]
fn ranges_above_the_configured_maximum_fail() {
    let base = tempfile::tempfile().unwrap();
    let len = 4 << 30;
    base.set_len(len).unwrap();
    let device = Block::new(Box::new(Raw::new(base, len, false)), "");
    let mut disk = Disk {
        driver: Driver::new(&device, MEMORY),
        device,
        ..Disk::overlay()
    };
    for (kind, max) in [
        (VIRTIO_BLK_T_DISCARD, 1 << 22),
        (VIRTIO_BLK_T_WRITE_ZEROES, 1 << 15),
    ] {
        assert_eq!(send(&mut disk, kind, &[(0, max, 0)]), OK);
        assert_eq!(send(&mut disk, kind, &[(0, max + 1, 0)]), FAILED);
    }
}

#[test]
fn a_read_only_disk_does_not_support_them() {
    let mut disk = Disk::new(|_| DiskMode::ReadOnly);
    for kind in BOTH {
        assert_eq!(send(&mut disk, kind, &[(0, 8, 0)]), UNSUPPORTED);
    }
    assert_eq!(sectors(&mut disk), expected(|_| false));
}
