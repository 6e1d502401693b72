//! The driver's side of virtqueues, for tests: real rings in real guest memory, written as a
//! driver writes them (virtio 1.2 section 2.7), well-behaved or not.

use std::collections::HashMap;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{DeviceError, DeviceIo, VirtioDevice};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// Where queue 0 is; each takes one stride. Tests put their buffers above `BUFFERS`.
const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x1_0000;
pub const BUFFERS: u64 = 0x10_0000;

/// A buffer of a request.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub addr: u64,
    pub len: u32,
    pub writable: bool,
}

pub fn readable(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        writable: false,
    }
}

pub fn writable(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        writable: true,
    }
}

/// A driver and its transport.
pub struct Driver {
    pub mem: GuestMemoryMmap,
    rings: Vec<Ring>,
    /// How often the device notified each queue.
    pub notified: Vec<usize>,
    /// The queues in which the device said that it has more to do.
    pub again: Vec<usize>,
    /// How often the device said that its configuration is another.
    pub config_changes: usize,
}

struct Ring {
    queue: Queue,
    size: u16,
    desc: u64,
    avail: u64,
    used: u64,
    free: Vec<u16>,
    next_avail: u16,
    last_used: u16,
    chains: HashMap<u16, Vec<u16>>,
}

impl Driver {
    /// A driver that made every queue of the device ready, each as large as it may be.
    pub fn new(device: &dyn VirtioDevice, memory: usize) -> Driver {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory)]).unwrap();
        let sizes = device.queue_sizes();
        let rings = sizes
            .iter()
            .zip(0..)
            .map(|(&size, index)| Ring::new(size, RINGS + index * STRIDE));
        Driver {
            rings: rings.collect(),
            notified: vec![0; sizes.len()],
            again: Vec::new(),
            config_changes: 0,
            mem,
        }
    }

    pub fn free(&self, queue: usize) -> usize {
        self.rings[queue].free.len()
    }

    /// Makes a request available; its head.
    pub fn offer(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let ring = &mut self.rings[queue];
        let indices: Vec<u16> = pieces.iter().map(|_| ring.free.pop().unwrap()).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let mut flags = if piece.writable { WRITE } else { 0 };
            let next = indices.get(at + 1).copied();
            flags |= next.map_or(0, |_| NEXT);
            self.describe(
                queue,
                indices[at],
                piece.addr,
                piece.len,
                flags,
                next.unwrap_or(0),
            );
        }
        self.rings[queue].chains.insert(indices[0], indices.clone());
        self.publish(queue, indices[0]);
        indices[0]
    }

    /// Writes one descriptor, whatever it says.
    pub fn describe(
        &mut self,
        queue: usize,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        self.describe_at(
            self.rings[queue].desc + 16 * u64::from(index),
            addr,
            len,
            flags,
            next,
        );
    }

    /// Writes one descriptor of an indirect table.
    pub fn describe_at(&mut self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        self.mem.write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Puts a head into the available ring, whatever it is.
    pub fn publish(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = ring.avail + 4 + 2 * u64::from(ring.next_avail % ring.size);
        self.mem.write_obj(head, GuestAddress(slot)).unwrap();
        ring.next_avail = ring.next_avail.wrapping_add(1);
        self.set_avail_index(queue, self.rings[queue].next_avail);
    }

    /// Sets the available ring's index, whatever it is.
    pub fn set_avail_index(&mut self, queue: usize, index: u16) {
        self.mem
            .write_obj(index, GuestAddress(self.rings[queue].avail + 2))
            .unwrap();
    }

    /// Takes the requests that the device returned: heads and written lengths.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.mem.read_obj(GuestAddress(ring.used + 2)).unwrap();
        let mut done = Vec::new();
        while ring.last_used != index {
            let slot = ring.used + 4 + 8 * u64::from(ring.last_used % ring.size);
            let head: u32 = self.mem.read_obj(GuestAddress(slot)).unwrap();
            let len: u32 = self.mem.read_obj(GuestAddress(slot + 4)).unwrap();
            let indices = ring.chains.remove(&(head as u16)).unwrap_or_default();
            ring.free.extend(indices);
            done.push((head as u16, len));
            ring.last_used = ring.last_used.wrapping_add(1);
        }
        done
    }

    pub fn write(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }
}

impl Ring {
    fn new(size: u16, at: u64) -> Ring {
        let (desc, avail, used) = (at, at + 0x4000, at + 0x8000);
        let mut queue = Queue::new(size).unwrap();
        queue.set_desc_table_address(Some(desc as u32), Some(0));
        queue.set_avail_ring_address(Some(avail as u32), Some(0));
        queue.set_used_ring_address(Some(used as u32), Some(0));
        queue.set_event_idx(true);
        queue.set_ready(true);
        Ring {
            queue,
            size,
            desc,
            avail,
            used,
            free: (0..size).rev().collect(),
            next_avail: 0,
            last_used: 0,
            chains: HashMap::new(),
        }
    }
}

impl DeviceIo for Driver {
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)> {
        Some((&mut self.rings.get_mut(index)?.queue, &self.mem))
    }

    fn notify(&mut self, index: usize) -> Result<(), DeviceError> {
        self.notified[index] += 1;
        Ok(())
    }

    fn again(&mut self, index: usize) {
        self.again.push(index);
    }

    fn config_changed(&mut self) {
        self.config_changes += 1;
    }
}
