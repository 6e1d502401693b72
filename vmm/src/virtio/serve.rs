//! Serving the requests of one queue in a loop.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::chain::{Buffers, Chain, MalformedChain};
use super::{DeviceError, DeviceIo};

/// Serves a queue until the driver has nothing more in it: calls `serve` for every chain, returns
/// its head with the number of bytes that `serve` says it wrote. Whether any was served.
///
/// Available buffer notifications are disabled meanwhile, and enabled when the queue is empty
/// ([`Chain::pop_or_rearm`]). One call serves at most twice the queue's size, then returns with
/// [`Served::more`] set, so that a driver that never stops does not keep the caller from notifying
/// it and from serving other queues.
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
    queue.disable_notification(mem)?;
    for count in 0..limit {
        let Some(chain) = Chain::pop_or_rearm(queue, mem)? else {
            return Ok(Served {
                any: count > 0,
                more: false,
            });
        };
        let Some(written) = serve(chain.buffers) else {
            queue.go_to_previous_position();
            return Ok(Served {
                any: count > 0,
                more: false,
            });
        };
        queue.add_used(mem, chain.head, written)?;
    }
    Ok(Served {
        any: true,
        more: true,
    })
}

/// What [`serve_queue`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// At least one chain was returned, so the driver is to be notified.
    pub any: bool,
    /// The limit was reached: there may be more in the queue, and notifications are disabled.
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
