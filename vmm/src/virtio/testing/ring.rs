//! One split virtqueue, as a driver writes and reads it (virtio 1.2 section 2.7).

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// A buffer of a request.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    pub addr: u64,
    pub len: u32,
    pub writable: bool,
}

/// A buffer that the device reads.
pub fn readable(addr: u64, len: u32) -> Buffer {
    Buffer {
        addr,
        len,
        writable: false,
    }
}

/// A buffer that the device writes.
pub fn writable(addr: u64, len: u32) -> Buffer {
    Buffer {
        addr,
        len,
        writable: true,
    }
}

/// The rings of one queue. All state is in guest memory, so clones are the same queue.
///
/// The methods panic when the rings themselves are not in guest memory.
#[derive(Debug, Clone)]
pub struct SplitRing {
    memory: GuestMemoryMmap,
    addresses: [u64; 3],
    size: u16,
}

impl SplitRing {
    /// The queue of `size` entries at these addresses: descriptor table, available ring, used ring.
    pub fn new(memory: &GuestMemoryMmap, addresses: [u64; 3], size: u16) -> SplitRing {
        SplitRing {
            memory: memory.clone(),
            addresses,
            size,
        }
    }

    /// Descriptor table, available ring, used ring.
    pub fn addresses(&self) -> [u64; 3] {
        self.addresses
    }

    /// The number of entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Writes descriptor `index`.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        let address = self.addresses[0] + 16 * u64::from(index);
        self.write(address, descriptor);
    }

    /// Writes a chain of these buffers into these descriptors.
    pub fn chain(&self, indices: &[u16], buffers: &[Buffer]) {
        for (at, (&index, buffer)) in indices.iter().zip(buffers).enumerate() {
            let next = indices.get(at + 1).filter(|_| at + 1 < buffers.len());
            let flags = next.map_or(0, |_| VRING_DESC_F_NEXT)
                | if buffer.writable {
                    VRING_DESC_F_WRITE
                } else {
                    0
                };
            let next = next.copied().unwrap_or(0);
            let descriptor = Descriptor::new(buffer.addr, buffer.len, flags as u16, next);
            self.describe(index, descriptor);
        }
    }

    /// Makes the chain that begins with descriptor `head` available.
    pub fn publish(&self, head: u16) {
        let index = self.available_index();
        let slot = self.addresses[1] + 4 + 2 * u64::from(index % self.size);
        self.write(slot, head.to_le());
        self.set_available_index(index.wrapping_add(1));
    }

    /// The index of the available ring: where the next head goes.
    pub fn available_index(&self) -> u16 {
        self.load(self.addresses[1] + 2)
    }

    /// Sets the index of the available ring.
    pub fn set_available_index(&self, index: u16) {
        let address = GuestAddress(self.addresses[1] + 2);
        let result = self.memory.store(index.to_le(), address, Ordering::Release);
        result.expect("the available ring is in guest memory");
    }

    /// Sets the flags of the available ring.
    pub fn set_available_flags(&self, flags: u16) {
        self.write(self.addresses[1], flags.to_le());
    }

    /// Whether the driver must notify the device of the chain that it published last (virtio 1.2
    /// section 2.7.10.1).
    pub fn must_notify(&self, event_idx: bool) -> bool {
        // Section 2.7.13.4.1.
        fence(Ordering::SeqCst);
        if event_idx {
            self.available_event() == self.available_index().wrapping_sub(1)
        } else {
            self.used_flags() & VRING_USED_F_NO_NOTIFY as u16 == 0
        }
    }

    /// `avail_event` of the used ring.
    pub fn available_event(&self) -> u16 {
        self.load(self.addresses[2] + 4 + 8 * u64::from(self.size))
    }

    /// The flags of the used ring.
    pub fn used_flags(&self) -> u16 {
        self.load(self.addresses[2])
    }

    /// The index of the used ring: how many chains the device has returned, modulo 2^16.
    pub fn used_index(&self) -> u16 {
        self.load(self.addresses[2] + 2)
    }

    /// The head and the written length of the chain that was returned as number `index`.
    pub fn used_element(&self, index: u16) -> (u16, u32) {
        let at = GuestAddress(self.addresses[2] + 4 + 8 * u64::from(index % self.size));
        let element = self.memory.read_obj::<[u32; 2]>(at);
        let [id, len] = element.expect("the used ring is in guest memory");
        (u32::from_le(id) as u16, u32::from_le(len))
    }

    fn load(&self, address: u64) -> u16 {
        let value = self.memory.load(GuestAddress(address), Ordering::Acquire);
        u16::from_le(value.expect("the ring is in guest memory"))
    }

    fn write<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        let result = self.memory.write_obj(value, GuestAddress(address));
        result.expect("the ring is in guest memory");
    }
}
