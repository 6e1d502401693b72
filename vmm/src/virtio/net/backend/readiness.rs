//! A pollable file descriptor for a changing set of events of another one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

/// An epoll instance that contains one file descriptor, or none.
#[derive(Debug)]
pub struct ReadinessFd {
    epoll: OwnedFd,
    armed: EventFlags,
}

impl ReadinessFd {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new() -> io::Result<ReadinessFd> {
        Ok(ReadinessFd {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            armed: EventFlags::empty(),
        })
    }

    /// Waits for `fd` to be readable or writable. `fd` must be the same in every call.
    pub fn set(&mut self, fd: BorrowedFd<'_>, read: bool, write: bool) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, read);
        wanted.set(EventFlags::OUT, write);
        if wanted == self.armed {
            return Ok(());
        }
        let data = EventData::new_u64(0);
        if wanted.is_empty() {
            // Removed rather than given an empty mask, with which epoll would still report a
            // hang-up.
            epoll::delete(&self.epoll, fd)?;
        } else if self.armed.is_empty() {
            epoll::add(&self.epoll, fd, data, wanted)?;
        } else {
            epoll::modify(&self.epoll, fd, data, wanted)?;
        }
        self.armed = wanted;
        Ok(())
    }

    /// Readable while one of the events is pending.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
