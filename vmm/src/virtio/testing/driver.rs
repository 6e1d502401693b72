//! A driver that lends its queues to a device directly, without a transport.

use std::collections::HashMap;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::ring::{Buffer, SplitRing};
use crate::virtio::{DeviceError, DeviceIo, VirtioDevice};

/// Where queue 0 is; each takes one stride.
const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x1_0000;
/// Memory from here on is for buffers.
pub const BUFFERS: u64 = 0x10_0000;

/// A driver, and what the device reported to it.
#[derive(Debug)]
pub struct Driver {
    memory: GuestMemoryMmap,
    queues: Vec<DriverQueue>,
    /// How often the device notified each queue.
    pub notified: Vec<usize>,
    /// The queues for which the device asked for another event.
    pub rescheduled: Vec<usize>,
    /// How often the device reported a change of its configuration.
    pub config_changes: usize,
}

#[derive(Debug)]
struct DriverQueue {
    /// The device's view of it.
    queue: Queue,
    ring: SplitRing,
    /// Descriptors that are in no chain.
    free: Vec<u16>,
    /// The descriptors of each chain that the device has, by its head.
    chains: HashMap<u16, Vec<u16>>,
    last_used: u16,
}

impl Driver {
    /// A driver with `memory` bytes of memory that made every queue of the device ready, each at
    /// its maximum size, with `VIRTIO_F_EVENT_IDX`.
    pub fn new(device: &dyn VirtioDevice, memory: usize) -> Driver {
        Driver::with_queues(device.queue_sizes(), true, memory)
    }

    /// A driver of queues of these sizes.
    pub fn with_queues(sizes: &[u16], event_idx: bool, memory: usize) -> Driver {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), memory)]).expect("memory for a test");
        let queues = sizes.iter().zip(0..).map(|(&size, index)| {
            let at = RINGS + index * STRIDE;
            let ring = SplitRing::new(&memory, [at, at + 0x4000, at + 0x8000], size);
            DriverQueue::new(ring, size, event_idx)
        });
        Driver {
            queues: queues.collect(),
            notified: vec![0; sizes.len()],
            rescheduled: Vec::new(),
            config_changes: 0,
            memory,
        }
    }

    /// The rings of a queue.
    pub fn ring(&self, queue: usize) -> &SplitRing {
        &self.queues[queue].ring
    }

    /// How many descriptors are in no chain.
    pub fn free(&self, queue: usize) -> usize {
        self.queues[queue].free.len()
    }

    /// Makes a request available; its head.
    pub fn offer(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let queue = &mut self.queues[queue];
        let indices = queue.free.split_off(queue.free.len() - buffers.len());
        let head = indices[0];
        queue.ring.chain(&indices, buffers);
        queue.ring.publish(head);
        queue.chains.insert(head, indices);
        head
    }

    /// Takes the requests that the device returned: heads and written lengths.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let queue = &mut self.queues[queue];
        let index = queue.ring.used_index();
        let mut returned = Vec::new();
        while queue.last_used != index {
            let (head, len) = queue.ring.used_element(queue.last_used);
            queue
                .free
                .extend(queue.chains.remove(&head).unwrap_or_default());
            returned.push((head, len));
            queue.last_used = queue.last_used.wrapping_add(1);
        }
        returned
    }

    /// Writes guest memory.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        let result = self.memory.write_slice(bytes, GuestAddress(addr));
        result.expect("an address in guest memory");
    }

    /// Reads guest memory.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let result = self.memory.read_slice(&mut bytes, GuestAddress(addr));
        result.expect("an address in guest memory");
        bytes
    }
}

impl DriverQueue {
    fn new(ring: SplitRing, size: u16, event_idx: bool) -> DriverQueue {
        let [descriptors, available, used] = ring.addresses();
        let mut queue = Queue::new(size).expect("a queue size of a device");
        queue.set_desc_table_address(Some(descriptors as u32), Some(0));
        queue.set_avail_ring_address(Some(available as u32), Some(0));
        queue.set_used_ring_address(Some(used as u32), Some(0));
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        DriverQueue {
            queue,
            ring,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            last_used: 0,
        }
    }
}

impl DeviceIo for Driver {
    fn queue(&mut self, index: usize) -> Option<(&mut Queue, &GuestMemoryMmap)> {
        Some((&mut self.queues.get_mut(index)?.queue, &self.memory))
    }

    fn notify(&mut self, index: usize) -> Result<(), DeviceError> {
        self.notified[index] += 1;
        Ok(())
    }

    fn reschedule(&mut self, index: usize) {
        self.rescheduled.push(index);
    }

    fn config_changed(&mut self) {
        self.config_changes += 1;
    }
}
