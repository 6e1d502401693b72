//! Copying one frame to the driver's buffers (virtio 1.2 section 5.1.6.4).

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::backend::Frame;
use super::config::Negotiated;
use super::header::HEADER_LEN;
use crate::virtio::chain::Chain;
use crate::virtio::{DeviceError, Segments};

/// What happened to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It was delivered.
    Used,
    /// It cannot be delivered: it is too long for any buffers that the driver may add, or its
    /// header requests an offload that the driver did not accept.
    Dropped,
    /// There are too few buffers; the driver notifies the device of more.
    NoBuffers,
}

/// A buffer popped from the queue. Its `room` is empty if it is malformed or too short for a
/// header.
struct RxBuffer<'m> {
    head: u16,
    room: Segments<'m>,
}

/// Copies a frame to one buffer, or to as many as it needs if mergeable buffers were negotiated.
///
/// # Errors
/// When a ring is invalid.
pub fn place(
    queue: &mut Queue,
    mem: &GuestMemoryMmap,
    frame: &Frame<'_>,
    negotiated: Negotiated,
) -> Result<Placed, DeviceError> {
    let need = HEADER_LEN + frame.data.len();
    let mut taken: Vec<RxBuffer<'_>> = Vec::with_capacity(1);
    let mut room = 0;
    while room < need {
        if !negotiated.mergeable && room > 0 || taken.len() >= usize::from(queue.size()) {
            unpop(queue, &taken);
            return Ok(Placed::Dropped);
        }
        let Some(chain) = Chain::pop_or_rearm(queue, mem)? else {
            unpop(queue, &taken);
            return Ok(Placed::NoBuffers);
        };
        let writable = chain.buffers.map(|buffers| buffers.writable);
        let buffer = writable.ok().filter(|buffer| buffer.len() >= HEADER_LEN);
        let buffer = RxBuffer {
            head: chain.head,
            room: buffer.unwrap_or_default(),
        };
        room += buffer.room.len();
        taken.push(buffer);
    }
    let (good, bad): (Vec<_>, Vec<_>) = taken.into_iter().partition(|t| !t.room.is_empty());
    let len = frame.data.len();
    let header = frame
        .header
        .to_driver(len, negotiated.rx, good.len() as u16);
    let Ok(header) = header else {
        unpop(queue, &good);
        unpop(queue, &bad);
        return Ok(Placed::Dropped);
    };
    for buffer in &bad {
        queue.add_used(mem, buffer.head, 0)?;
    }
    let header = header.encode();
    let mut data = frame.data;
    let mut used = Vec::with_capacity(good.len());
    for (index, mut buffer) in good.into_iter().enumerate() {
        let mut written = 0;
        if index == 0 {
            let after = buffer.room.split_off(HEADER_LEN);
            written = buffer.room.copy_from(&header);
            buffer.room = after;
        }
        let n = buffer.room.copy_from(data);
        data = &data[n..];
        used.push((buffer.head, (written + n) as u32));
    }
    publish(queue, mem, &used)?;
    Ok(Placed::Used)
}

/// Leaves the buffers in the available ring.
fn unpop(queue: &mut Queue, taken: &[RxBuffer<'_>]) {
    for _ in taken {
        queue.go_to_previous_position();
    }
}

/// Returns the chains of one frame to the driver with a single update of the used index: a driver
/// that sees the first expects the others (virtio 1.2 section 5.1.6.4.1).
fn publish(
    queue: &mut Queue,
    mem: &GuestMemoryMmap,
    used: &[(u16, u32)],
) -> Result<(), DeviceError> {
    let Some((&(head, len), before)) = used.split_last() else {
        return Ok(());
    };
    // `add_used` updates the index, so all elements but the last are written without it.
    let first = queue.next_used();
    for (at, &(head, len)) in (0..).zip(before) {
        let slot = first.wrapping_add(at) % queue.size();
        // Virtio 1.2 section 2.7.8: a header of 4 bytes, elements of 8.
        let offset = 4 + 8 * u64::from(slot);
        let address = queue.used_ring().checked_add(offset);
        let address = address.ok_or(DeviceError::Protocol(
            "ring at the end of the address space",
        ))?;
        let element = [u32::from(head).to_le(), len.to_le()];
        mem.write_obj(element, GuestAddress(address))?;
    }
    // Called once for each chain, with the same result: the queue counts the calls to evaluate
    // `used_event`.
    let last = first.wrapping_add(before.len() as u16);
    for _ in used {
        queue.set_next_used(last);
        queue.add_used(mem, head, len)?;
    }
    Ok(())
}
