//! Used buffer notification suppression (virtio 1.2 section 2.7.7).

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::DeviceError;

/// Whether the driver must be interrupted for the chains returned since the last call: according
/// to `used_event` if `VIRTIO_F_EVENT_IDX` was negotiated, else to the available ring's flags.
///
/// # Errors
/// When the rings cannot be read.
pub fn wanted(queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<bool, DeviceError> {
    if queue.event_idx_enabled() {
        return Ok(queue.needs_notification(memory)?);
    }
    // The used index must be visible before the flags are read. Otherwise a driver that enables
    // interrupts and reads the index again could miss both.
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    let flags: u16 = memory.read_obj(GuestAddress(queue.avail_ring()))?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
