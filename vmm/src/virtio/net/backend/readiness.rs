//! Waits for one descriptor, for what is wanted of it just now.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

/// An epoll instance with one descriptor in it, or none.
#[derive(Debug)]
pub struct ReadinessFd {
    epoll: OwnedFd,
    armed: EventFlags,
}

impl ReadinessFd {
    pub fn new() -> io::Result<ReadinessFd> {
        Ok(ReadinessFd {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            armed: EventFlags::empty(),
        })
    }

    /// Waits until `fd`, always the same one, can be read or written.
    pub fn set(&mut self, fd: BorrowedFd<'_>, read: bool, write: bool) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, read);
        wanted.set(EventFlags::OUT, write);
        if wanted == self.armed {
            return Ok(());
        }
        let data = EventData::new_u64(0);
        if wanted.is_empty() {
            // Removed rather than given an empty mask: epoll reports a hang-up even to those who ask for
            // nothing, for as long as it lasts.
            epoll::delete(&self.epoll, fd)?;
        } else if self.armed.is_empty() {
            epoll::add(&self.epoll, fd, data, wanted)?;
        } else {
            epoll::modify(&self.epoll, fd, data, wanted)?;
        }
        self.armed = wanted;
        Ok(())
    }

    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
