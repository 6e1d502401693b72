//! One request of a driver: a descriptor chain, checked and turned into buffers.
//!
//! [`Chain::pop_or_rearm`] is the only way to take one from a queue.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions};

use super::{DeviceError, Segments};

/// A chain taken from the available ring. Its head must be returned with
/// [`Queue::add_used`](virtio_queue::QueueT::add_used), whatever is wrong with it.
#[derive(Debug)]
pub struct Chain<'m> {
    /// The index of the first descriptor, which names the chain in the used ring.
    pub head: u16,
    /// The buffers, or what is wrong with the chain.
    pub buffers: Result<Buffers<'m>, MalformedChain>,
}

/// The buffers of a chain; all of them lie within guest memory.
#[derive(Debug)]
pub struct Buffers<'m> {
    /// What the device may read.
    pub readable: Segments<'m>,
    /// What the device may write.
    pub writable: Segments<'m>,
}

/// What can be wrong with one chain. It concerns that request alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedChain {
    /// It does not end: a loop, a descriptor index or an indirect table that is not valid, or
    /// more than 4 GiB (virtio 1.2 section 2.7.5).
    #[error("a descriptor chain does not end")]
    Unterminated,
    /// It has more descriptors than its queue has entries (section 2.7.5.3.1).
    #[error("a descriptor chain is longer than its queue")]
    TooLong,
    /// A buffer is not in guest memory.
    #[error("a descriptor points outside guest memory")]
    OutOfRange,
    /// A buffer for the device to read follows one for it to write (section 2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    Order,
}

impl<'m> Chain<'m> {
    /// Takes the next chain from the available ring. If there is none, enables available buffer
    /// notifications and returns `None`; the driver then notifies the device of the next chain.
    ///
    /// This is the device's half of available buffer notification suppression (virtio 1.2 section
    /// 2.7.10). Enabling notifications races with the driver, which may add a chain after the
    /// device found the ring empty but before it sees them enabled, and then does not notify:
    ///
    /// ```text
    /// device                                driver
    /// read avail.idx: nothing new
    ///                                       add a chain, avail.idx += 1
    ///                                       read flags or avail_event: do not notify
    /// enable notifications
    /// full fence, read avail.idx again: there it is
    /// ```
    ///
    /// So the index is read again after enabling, behind a full fence. The driver does the reverse
    /// (section 2.7.13.4.1): it writes the index, then reads whether to notify. At least one of the
    /// two sees the other's write. A chain found by the second read is returned, with notifications
    /// disabled again.
    ///
    /// How they are enabled depends on what was negotiated (section 2.7.10):
    /// - `VIRTIO_F_EVENT_IDX`: `avail_event` in the used ring is set to the index of the next
    ///   chain. The driver notifies once for each value, so there is nothing to disable.
    /// - otherwise: `VIRTQ_USED_F_NO_NOTIFY` in the used ring's flags is cleared, and set to disable
    ///   them.
    ///
    /// `None` therefore means that the device may wait for the queue. A device that stops taking
    /// chains before that must be woken by something else: notifications may be disabled.
    ///
    /// # Errors
    /// When the ring itself is broken: the index is more than the queue's size ahead or goes
    /// backwards, or the ring is not in guest memory.
    pub fn pop_or_rearm(
        queue: &mut Queue,
        mem: &'m GuestMemoryMmap,
    ) -> Result<Option<Self>, DeviceError> {
        match Chain::pop(queue, mem)? {
            None => Chain::rearm(queue, mem),
            chain => Ok(chain),
        }
    }

    fn pop(queue: &mut Queue, mem: &'m GuestMemoryMmap) -> Result<Option<Self>, DeviceError> {
        if queue.avail_idx(mem, Ordering::Acquire)?.0 == queue.next_avail() {
            return Ok(None);
        }
        let limit = queue.size();
        let chain = queue.iter(mem)?.next();
        let chain = chain.ok_or(DeviceError::Protocol("the available ring cannot be read"))?;
        Ok(Some(Chain {
            head: chain.head_index(),
            buffers: Buffers::collect(chain, mem, limit),
        }))
    }

    /// The second half of [`pop_or_rearm`](Self::pop_or_rearm), after `pop` found nothing.
    fn rearm(queue: &mut Queue, mem: &'m GuestMemoryMmap) -> Result<Option<Self>, DeviceError> {
        // Contains the fence and the second read of the index.
        if !queue.enable_notification(mem)? {
            return Ok(None);
        }
        queue.disable_notification(mem)?;
        // No driver takes a chain back. Without this check, rings that overlap such that enabling
        // and disabling change the index would keep the device busy forever.
        Chain::pop(queue, mem)?
            .map(Some)
            .ok_or(DeviceError::Protocol(
                "the index of an available ring went backwards",
            ))
    }
}

impl<'m> Buffers<'m> {
    fn collect(
        chain: DescriptorChain<&'m GuestMemoryMmap>,
        mem: &'m GuestMemoryMmap,
        limit: u16,
    ) -> Result<Self, MalformedChain> {
        let mut buffers = Buffers {
            readable: Segments::default(),
            writable: Segments::default(),
        };
        let mut ended = false;
        for (count, descriptor) in chain.enumerate() {
            if count >= usize::from(limit) {
                return Err(MalformedChain::TooLong);
            }
            // The iterator just stops where a chain breaks; only the last descriptor it gave
            // tells an end from a break.
            ended = !descriptor.has_next();
            let side = if descriptor.is_write_only() {
                &mut buffers.writable
            } else if buffers.writable.is_empty() {
                &mut buffers.readable
            } else {
                return Err(MalformedChain::Order);
            };
            let access = if descriptor.is_write_only() {
                Permissions::Write
            } else {
                Permissions::Read
            };
            let slices = mem
                .get_slices(descriptor.addr(), descriptor.len() as usize, access)
                .map_err(|_| MalformedChain::OutOfRange)?;
            for slice in slices {
                side.push(slice.map_err(|_| MalformedChain::OutOfRange)?);
            }
        }
        if ended {
            Ok(buffers)
        } else {
            Err(MalformedChain::Unterminated)
        }
    }
}

#[cfg(test)]
mod tests;
