//! The state of a virtqueue as one line of text, for diagnostics.

use std::fmt::Write;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Describes `queue`: the positions of the device (`next_avail`, `next_used`) and, read from
/// `memory`, those of the rings (`avail.idx`, `used.idx`), the flags, and the event indices by
/// which each side suppresses the other's notifications (virtio 1.2 sections 2.7.7 and 2.7.10).
/// Reads guest memory and changes nothing.
pub fn describe(queue: &Queue, memory: Option<&GuestMemoryMmap>) -> String {
    if !queue.ready() {
        return "not ready".to_owned();
    }
    let size = queue.size();
    let mut text = format!(
        "size {size}, next_avail {}, next_used {}",
        queue.next_avail(),
        queue.next_used()
    );
    let (avail, used) = (queue.avail_ring(), queue.used_ring());
    // The event indices follow the rings' elements of 2 and 8 bytes.
    let used_event = 4 + 2 * u64::from(size);
    let avail_event = 4 + 8 * u64::from(size);
    for (name, ring, offset) in [
        ("avail.flags", avail, 0),
        ("avail.idx", avail, 2),
        ("used_event", avail, used_event),
        ("used.flags", used, 0),
        ("used.idx", used, 2),
        ("avail_event", used, avail_event),
    ] {
        let address = ring.checked_add(offset).map(GuestAddress);
        let value = memory
            .zip(address)
            .and_then(|(memory, address)| memory.read_obj::<u16>(address).ok());
        // Writing to a string cannot fail.
        let _ = match value {
            Some(value) => write!(text, ", {name} {}", u16::from_le(value)),
            None => write!(text, ", {name} unreadable"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_indices_are_shown() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let mut queue = Queue::new(16).unwrap();
        assert_eq!(describe(&queue, Some(&memory)), "not ready");
        queue.set_avail_ring_address(Some(0x1000), Some(0));
        queue.set_used_ring_address(Some(0x2000), Some(0));
        queue.set_next_avail(3);
        queue.set_next_used(2);
        queue.set_ready(true);
        for (address, value) in [
            (0x1000, 1u16),
            (0x1002, 5),
            (0x1024, 4),
            (0x2002, 2),
            (0x2084, 3),
        ] {
            memory.write_obj(value, GuestAddress(address)).unwrap();
        }
        assert_eq!(
            describe(&queue, Some(&memory)),
            "size 16, next_avail 3, next_used 2, avail.flags 1, avail.idx 5, used_event 4, \
             used.flags 0, used.idx 2, avail_event 3"
        );
    }

    #[test]
    fn rings_outside_memory_are_not_read() {
        let mut queue = Queue::new(16).unwrap();
        queue.set_avail_ring_address(Some(u32::MAX - 15), Some(u32::MAX));
        queue.set_ready(true);
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let text = describe(&queue, Some(&memory));
        assert!(text.contains("avail.idx unreadable"), "{text}");
        assert!(describe(&queue, None).contains("used.idx unreadable"));
    }
}
