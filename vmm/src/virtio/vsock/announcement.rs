//! Telling the guest that its streams are gone (virtio 1.2 section 5.10.6.7).
//!
//! A guest that was saved with open streams still has them when it is restored. After the event it has
//! none. A driver resets also those that were opened before it has seen the event, so the device opens none
//! until the driver has offered the buffer of the event again.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::super::DeviceError;
use super::super::chain::Buffers;
use super::super::serve::serve_queue;

/// `VIRTIO_VSOCK_EVENT_TRANSPORT_RESET` (`struct virtio_vsock_event`).
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// Whether the guest knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Announcement {
    /// There is nothing to know.
    #[default]
    None,
    /// It is to be told as soon as it offers a buffer.
    Due,
    /// It was told, and its driver had this many buffers offered in all.
    Told(u16),
}

impl Announcement {
    /// Whether streams may be opened.
    pub fn is_over(self) -> bool {
        self == Announcement::None
    }

    /// Goes on with the event queue; returns whether the driver is to be notified.
    ///
    /// # Errors
    /// When a ring is invalid.
    pub fn serve(&mut self, queue: &mut Queue, mem: &GuestMemoryMmap) -> Result<bool, DeviceError> {
        if *self == Announcement::Due {
            let mut told = false;
            let offered = offered(queue, mem)?;
            // All buffers are returned, the others empty: with `VIRTIO_F_EVENT_IDX` the driver notifies the
            // device of the next one only if it has taken those before.
            let served = serve_queue(queue, mem, |buffers| match buffers {
                Ok(Buffers { writable, .. })
                    if !told && writable.len() >= TRANSPORT_RESET.len() =>
                {
                    writable.copy_from(&TRANSPORT_RESET);
                    told = true;
                    TRANSPORT_RESET.len() as u32
                }
                _ => 0,
            })?;
            if told {
                *self = Announcement::Told(offered);
            }
            return Ok(served.any);
        }
        if let Announcement::Told(before) = *self
            && offered(queue, mem)? != before
        {
            *self = Announcement::None;
        }
        Ok(false)
    }
}

/// How many buffers the driver has offered in all, as the ring counts.
fn offered(queue: &Queue, mem: &GuestMemoryMmap) -> Result<u16, DeviceError> {
    Ok(queue
        .avail_idx(mem, std::sync::atomic::Ordering::Acquire)?
        .0)
}
