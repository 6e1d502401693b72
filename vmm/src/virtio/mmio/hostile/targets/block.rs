//! The block device, on each of its back ends.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;

use super::super::harness::{BUFFERS, Harness};
use super::super::input::Input;
use super::Target;
use crate::virtio::block::{Backend, Block, Overlay, Raw, SECTOR};
use crate::virtio::testing::registers::{QUEUE_NOTIFY, Registers};
use crate::virtio::testing::{block, readable, writable};

const SECTORS: u64 = 64;

/// A disk, and the file that must not change, if any.
#[derive(Debug)]
pub struct BlockTarget {
    unchanged: Option<File>,
}

fn file(content: &[u8]) -> File {
    let file = memfd_create("disk", MemfdFlags::CLOEXEC).expect("a memfd");
    let file = File::from(file);
    file.write_all_at(content, 0).expect("memory");
    file
}

fn content() -> Vec<u8> {
    (0..SECTORS * SECTOR)
        .map(|i| (i / SECTOR) as u8 | 0x80)
        .collect()
}

impl BlockTarget {
    pub fn new(kind: u8) -> (BlockTarget, Block) {
        let image = file(&content());
        let same = image.try_clone().expect("a file descriptor");
        let len = SECTORS * SECTOR;
        let (backend, unchanged): (Box<dyn Backend>, _) = match kind % 3 {
            0 => {
                let overlay = Overlay::new(image, len, file(&[]));
                (Box::new(overlay.expect("memory")), Some(same))
            }
            1 => (Box::new(Raw::new(image, len, true)), Some(same)),
            _ => (Box::new(Raw::new(image, len, false)), None),
        };
        (BlockTarget { unchanged }, Block::new(backend, "hostile"))
    }
}

impl Target for BlockTarget {
    fn request(&mut self, input: &mut Input<'_>, harness: &Harness) {
        let header_at = BUFFERS + 64 * u64::from(input.byte() % 8);
        let kind = match input.byte() {
            255 => input.word(),
            kind => u32::from(kind % 16),
        };
        let sector = match input.byte() {
            255 => input.long(),
            sector => u64::from(sector % 80),
        };
        harness.put(header_at, &block::header(kind, sector));
        let data = BUFFERS + 0x1000 + 64 * u64::from(input.byte());
        let len = match input.byte() {
            ranges @ 0..64 => {
                // A list of ranges; only the first one is written.
                let (sector, count) = (u64::from(input.byte()), input.byte().into());
                let range = block::range(sector, count, u32::from(input.byte() % 3));
                harness.put(data, &range);
                16 * u32::from(ranges % 20)
            }
            sectors => 512 * u32::from(sectors % 20),
        };
        let data = match kind % 2 {
            0 => writable(data, len),
            _ => readable(data, len),
        };
        let request = block::request(header_at, &[data], BUFFERS + 0x200);
        harness.offer(0, input.byte().into(), &request);
    }

    fn assert_serves(&mut self, harness: &mut Harness) {
        harness.put(BUFFERS, &block::header(VIRTIO_BLK_T_IN, 0));
        let status_at = BUFFERS + 0x2000;
        harness.put(status_at, &[0xee]);
        let data = writable(BUFFERS + 0x1000, 512);
        harness.offer(0, 0, &block::request(BUFFERS, &[data], status_at));
        harness.write_register(QUEUE_NOTIFY, 0);
        harness.run_worker();
        assert_eq!(harness.ring(0).used_index(), 1);
        assert_eq!(harness.get(status_at), [0], "the status");
        if let Some(file) = &self.unchanged {
            let mut now = vec![0; content().len()];
            file.read_exact_at(&mut now, 0)
                .expect("a file of the same length");
            assert!(now == content(), "a read-only image was written");
        }
    }
}
