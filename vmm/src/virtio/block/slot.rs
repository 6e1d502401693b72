//! A disk whose content is exchanged while the guest has it: a device that is there before it is
//! known what for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Backend;

/// What a disk is put into. Clones are of the same one.
#[derive(Debug, Clone)]
pub struct Slot {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    next: Mutex<Option<Box<dyn Backend>>>,
    /// Readable while `next` is there.
    event: OwnedFd,
    read_only: bool,
    durable: bool,
}

/// A disk does not fit: the guest was told otherwise when it negotiated features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk is not read-only or durable as the one whose place it takes")]
pub struct IncompatibleBackend;

impl Slot {
    /// A slot for disks that are written, and kept, as this one is.
    ///
    /// # Errors
    /// When the host has no descriptors left.
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

    /// Puts a disk in the place of the one that is there. Requests that the guest makes available
    /// after this returns are for the new one; if its size is another, the guest is told (over
    /// virtio-mmio; vhost-user's back end has no such message). What was not flushed to the old
    /// one is the caller's concern.
    ///
    /// # Errors
    /// [`IncompatibleBackend`]; nothing has changed then.
    pub fn attach(&self, backend: Box<dyn Backend>) -> Result<(), IncompatibleBackend> {
        let shared = &self.shared;
        if (backend.read_only(), backend.durable()) != (shared.read_only, shared.durable) {
            return Err(IncompatibleBackend);
        }
        let mut next = self.next();
        *next = Some(backend);
        // Under the lock, as in `take`, or one that was taken in between would leave it readable.
        // It fails only when its counter is at its maximum: then it is readable.
        let _ = rustix::io::write(&shared.event, &1u64.to_ne_bytes());
        Ok(())
    }

    /// The disk that was attached last, once.
    pub(super) fn take(&self) -> Option<Box<dyn Backend>> {
        let mut next = self.next();
        let backend = next.take()?;
        // It fails only when it is not readable.
        let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
        Some(backend)
    }

    /// Readable when there is something to take.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    fn next(&self) -> MutexGuard<'_, Option<Box<dyn Backend>>> {
        // What is behind it is one value, whole at any time.
        let next = self.shared.next.lock();
        next.unwrap_or_else(PoisonError::into_inner)
    }
}
