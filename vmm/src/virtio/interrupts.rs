//! Whether a driver wants to be told of used buffers.

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::DeviceError;

/// Whether the driver wants an interrupt for what was used since it was last asked: by the used
/// event if that was negotiated, else by the available ring's flags (virtio 1.2 section 2.7.7).
///
/// # Errors
/// When the rings cannot be read.
pub fn wanted(queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<bool, DeviceError> {
    if queue.event_idx_enabled() {
        return Ok(queue.needs_notification(memory)?);
    }
    // The index of the used ring must be out before the flags are read, or a driver that turns
    // interrupts on and looks again would miss both.
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    let flags: u16 = memory.read_obj(GuestAddress(queue.avail_ring()))?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
