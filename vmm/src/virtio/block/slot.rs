//! Replacing the back end of a block device while the guest uses it, so that a device can exist
//! before its image is chosen.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::Backend;
use crate::virtio::mailbox::Mailbox;

/// Access to the back end of one block device. Clones refer to the same device.
#[derive(Debug, Clone)]
pub struct Slot {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    next: Mailbox<Box<dyn Backend>>,
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
        Ok(Slot {
            shared: Arc::new(Shared {
                next: Mailbox::new()?,
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
        shared.next.put(backend);
        Ok(())
    }

    /// The back end that was attached last, if it was not taken yet.
    pub(super) fn take(&self) -> Option<Box<dyn Backend>> {
        self.shared.next.take()
    }

    /// Readable while there is a back end to take.
    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.shared.next.poll_fd()
    }
}
