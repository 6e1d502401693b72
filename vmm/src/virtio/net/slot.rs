//! Replacing the backend of a network device while the guest uses it: the process behind it ended
//! and was started again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Backend;
use crate::virtio::mailbox::Mailbox;

/// Access to the backend of one network device. Clones refer to the same device.
#[derive(Debug, Clone)]
pub struct Slot(Arc<Mailbox<Box<dyn Backend>>>);

impl Slot {
    /// Replaces the backend. Frames on their way are lost; the guest sees the link go up, if it was
    /// down.
    pub fn attach(&self, backend: Box<dyn Backend>) {
        self.0.put(backend);
    }
}

/// The device's side of a [`Slot`].
#[derive(Debug)]
pub(super) struct Inlet {
    slot: Slot,
    /// Readable while there is a backend to take, or the current one has events.
    epoll: OwnedFd,
}

impl Inlet {
    /// For a device with this backend.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(backend: &dyn Backend) -> io::Result<Inlet> {
        let slot = Slot(Arc::new(Mailbox::new()?));
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let inlet = Inlet { slot, epoll };
        inlet.watch(inlet.slot.0.poll_fd())?;
        inlet.watch(backend.poll_fd())?;
        Ok(inlet)
    }

    pub fn slot(&self) -> Slot {
        self.slot.clone()
    }

    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Puts the backend that was attached last in the place of `backend`; returns whether there was
    /// one.
    pub fn replace(&self, backend: &mut Box<dyn Backend>) -> io::Result<bool> {
        let Some(next) = self.slot.0.take() else {
            return Ok(false);
        };
        epoll::delete(&self.epoll, backend.poll_fd())?;
        *backend = next;
        self.watch(backend.poll_fd())?;
        Ok(true)
    }

    fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let data = EventData::new_u64(0);
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN)?)
    }
}
