//! Serving the requests of one queue in a loop.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::chain::{Buffers, Chain, MalformedChain};
use super::{DeviceError, DeviceIo};

/// Serves a queue until it is empty: calls `serve` for every chain and returns the chain to the
/// driver with the number of bytes written, which `serve` returns.
///
/// Available buffer notifications are disabled meanwhile, and enabled when the queue is empty
/// ([`Chain::pop_or_rearm`]). One call serves at most twice the queue's size, then returns with
/// [`Served::more`] set, so that a driver that never stops does not keep the caller from notifying
/// it and from serving other queues.
///
/// # Errors
/// When a ring is invalid ([`Chain::pop_or_rearm`]).
pub fn serve_queue<'m>(
    queue: &mut Queue,
    mem: &'m GuestMemoryMmap,
    mut serve: impl FnMut(Result<Buffers<'m>, MalformedChain>) -> u32,
) -> Result<Served, DeviceError> {
    serve_queue_while(queue, mem, |buffers| Some(serve(buffers)))
}

/// Like [`serve_queue`], for a device that cannot always continue: when `serve` returns `None`, the
/// chain stays in the queue and serving stops. Notifications stay disabled, because the device then
/// waits for its host side and not for the driver.
///
/// # Errors
/// When a ring is invalid ([`Chain::pop_or_rearm`]).
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

/// The result of [`serve_queue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// At least one chain was returned, so the driver must be notified.
    pub any: bool,
    /// The limit was reached: there may be more in the queue, and notifications are disabled.
    pub more: bool,
}

impl Served {
    /// Notifies the driver if any chain was returned, and reschedules the queue if there is more.
    ///
    /// # Errors
    /// Those of [`DeviceIo::notify`].
    pub fn notify(self, index: usize, io: &mut dyn DeviceIo) -> Result<(), DeviceError> {
        if self.any {
            io.notify(index)?;
        }
        if self.more {
            io.reschedule(index);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{BUFFERS, Driver, writable};

    const SIZE: u16 = 4;

    fn serve_while(driver: &mut Driver, serve: impl FnMut() -> Option<u32>) -> Served {
        let mut serve = serve;
        let (queue, mem) = driver.queue(0).unwrap();
        serve_queue_while(queue, mem, |_| serve()).unwrap()
    }

    #[test]
    fn every_chain_is_returned_with_its_written_length() {
        for event_idx in [true, false] {
            let mut driver = Driver::with_queues(&[SIZE], event_idx, 4 << 20);
            let nothing = serve_while(&mut driver, || Some(0));
            assert!(!nothing.any && !nothing.more);
            let heads = [0; 3].map(|_| driver.offer(0, &[writable(BUFFERS, 8)]));
            let mut len = 0;
            let served = serve_while(&mut driver, || {
                len += 1;
                Some(len)
            });
            assert!(served.any && !served.more);
            let expected: Vec<_> = heads.into_iter().zip(1..).collect();
            assert_eq!(driver.used(0), expected);
            driver.offer(0, &[writable(BUFFERS, 8)]);
            assert!(driver.ring(0).must_notify(event_idx));
        }
    }

    #[test]
    fn a_chain_that_is_not_served_stays_in_the_queue() {
        let mut driver = Driver::with_queues(&[SIZE], false, 4 << 20);
        let heads = [0; 2].map(|_| driver.offer(0, &[writable(BUFFERS, 8)]));
        let mut results = [Some(8), None].into_iter();
        let served = serve_while(&mut driver, || results.next().unwrap());
        assert!(served.any && !served.more);
        assert_eq!(driver.used(0), [(heads[0], 8)]);
        driver.offer(0, &[writable(BUFFERS, 8)]);
        assert!(
            !driver.ring(0).must_notify(false),
            "the device does not wait for the driver"
        );
        serve_while(&mut driver, || Some(0));
        assert_eq!(driver.used(0).len(), 2);
    }

    #[test]
    fn a_driver_that_never_stops_is_served_twice_the_queue_size_at_once() {
        let mut driver = Driver::with_queues(&[SIZE], true, 4 << 20);
        let ring = driver.ring(0).clone();
        ring.publish(0);
        let mut count = 0;
        let served = serve_while(&mut driver, || {
            ring.publish(0);
            count += 1;
            Some(0)
        });
        assert!(served.any && served.more);
        assert_eq!(count, 2 * SIZE);
    }
}
