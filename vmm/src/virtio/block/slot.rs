//! Replacing the back end of a block device while the guest uses it, so that a device can exist
//! before its image is chosen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Backend;

/// Access to the back end of one block device. Clones refer to the same device.
#[derive(Debug, Clone)]
pub struct Slot {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    next: Mutex<Option<Box<dyn Backend>>>,
    /// Readable while `next` is set.
    event: OwnedFd,
    read_only: bool,
    durable: bool,
}

/// The new back end would need other features than the guest has negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the new disk differs from the current one in being read-only or durable")]
pub struct IncompatibleBackend;

impl Slot {
    /// A slot for back ends that match this one in [`Backend::read_only`] and
    /// [`Backend::durable`].
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub(super) fn for_backend(backend: &dyn Backend) -> io::Result<Slot> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Slot {
            shared: Arc::new(Shared {
                next: Mutex::new(None),
                event,
                read_only: backend.read_only(),
                durable: backend.durable(),
            }),
        })
    }

    /// Replaces the back end. Requests that the guest makes available after this returns go to the
    /// new one. If its size differs, the guest receives a configuration change notification (on
    /// virtio-mmio only). Does not flush the old back end.
    ///
    /// # Errors
    /// [`IncompatibleBackend`]; the device is then unchanged.
    pub fn attach(&self, backend: Box<dyn Backend>) -> Result<(), IncompatibleBackend> {
        let shared = &self.shared;
        if (backend.read_only(), backend.durable()) != (shared.read_only, shared.durable) {
            return Err(IncompatibleBackend);
        }
        let mut next = self.next();
        *next = Some(backend);
        // Under the lock, as in `take`; otherwise a `take` in between would leave it readable. The
        // write fails only if the counter is at its maximum, and then it is readable already.
        let _ = rustix::io::write(&shared.event, &1u64.to_ne_bytes());
        Ok(())
    }

    /// The back end that was attached last, if it was not taken yet.
    pub(super) fn take(&self) -> Option<Box<dyn Backend>> {
        let mut next = self.next();
        let backend = next.take()?;
        // Fails only if it is not readable.
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
        Some(backend)
    }

    /// Readable while there is a back end to take.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    fn next(&self) -> MutexGuard<'_, Option<Box<dyn Backend>>> {
        // A single value, which a panic cannot leave half updated.
        let next = self.shared.next.lock();
        next.unwrap_or_else(PoisonError::into_inner)
    }
}
