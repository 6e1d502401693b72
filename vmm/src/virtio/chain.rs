//! One request of a driver: a descriptor chain, checked and turned into buffers.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions};

use super::{DeviceError, DeviceIo, Segments};

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
    /// Takes the next chain that the driver made available; `None` when there is none.
    ///
    /// # Errors
    /// When the ring itself is broken: its index jumped further than the queue is long, or the
    /// ring is not in guest memory.
    pub fn pop(queue: &mut Queue, mem: &'m GuestMemoryMmap) -> Result<Option<Self>, DeviceError> {
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

/// Serves a queue until the driver has nothing more in it: calls `serve` for every chain, returns
/// its head with the number of bytes that `serve` says it wrote. Whether any was served.
///
/// Driver notifications are off while it works and on again when it returns. One call serves at
/// most two times the queue's size, then returns with [`Served::more`] set, so that the caller can
/// notify the driver, and serve others, however fast the driver is.
///
/// # Errors
/// When the ring is broken.
pub fn serve_queue<'m>(
    queue: &mut Queue,
    mem: &'m GuestMemoryMmap,
    mut serve: impl FnMut(Result<Buffers<'m>, MalformedChain>) -> u32,
) -> Result<Served, DeviceError> {
    serve_queue_while(queue, mem, |buffers| Some(serve(buffers)))
}

/// As [`serve_queue`], for a device that cannot always go on: where `serve` returns `None` the
/// chain stays in the queue, unserved. Driver notifications stay off then, for it is not the driver
/// that is waited for.
///
/// # Errors
/// When the ring is broken.
pub fn serve_queue_while<'m>(
    queue: &mut Queue,
    mem: &'m GuestMemoryMmap,
    mut serve: impl FnMut(Result<Buffers<'m>, MalformedChain>) -> Option<u32>,
) -> Result<Served, DeviceError> {
    let limit = 2 * usize::from(queue.size());
    let mut count = 0;
    let mut promised = false;
    loop {
        let before = count;
        queue.disable_notification(mem)?;
        while count < limit
            && let Some(chain) = Chain::pop(queue, mem)?
        {
            let Some(written) = serve(chain.buffers) else {
                queue.go_to_previous_position();
                return Ok(Served {
                    any: count > 0,
                    more: false,
                });
            };
            queue.add_used(mem, chain.head, written)?;
            count += 1;
        }
        // What turns notifications on and off is in a ring: if that lies on the index of the other
        // ring, each makes the next round find something else, and none finds a chain.
        if promised && count == before {
            return Err(DeviceError::Protocol("the rings of a queue overlap"));
        }
        promised = queue.enable_notification(mem)?;
        if !promised {
            return Ok(Served {
                any: count > 0,
                more: false,
            });
        }
        if count >= limit {
            return Ok(Served {
                any: true,
                more: true,
            });
        }
    }
}

/// What [`serve_queue`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// At least one chain was returned, so the driver is to be notified.
    pub any: bool,
    /// There is more in the queue.
    pub more: bool,
}

impl Served {
    /// Tells the driver what was served, and the transport if there is more.
    ///
    /// # Errors
    /// Those of [`DeviceIo::notify`].
    pub fn tell(self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        if self.any {
            io.notify(index)?;
        }
        if self.more {
            io.again(index);
        }
        Ok(())
    }
}
