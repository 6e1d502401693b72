//! One value on its way to a device's thread, which waits for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Holds at most one value.
#[derive(Debug)]
pub struct Mailbox<T> {
    value: Mutex<Option<T>>,
    /// Readable while there is a value.
    event: OwnedFd,
}

impl<T> Mailbox<T> {
    /// An empty one.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new() -> io::Result<Mailbox<T>> {
        Ok(Mailbox {
            value: Mutex::new(None),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Puts a value in; one that was not taken yet is dropped.
    pub fn put(&self, value: T) {
        let mut place = self.value();
        *place = Some(value);
        // Under the lock, as in `take`; otherwise a `take` in between would leave it readable. The
        // write fails only if the counter is at its maximum, and then it is readable already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// Takes the value out, if there is one.
    pub fn take(&self) -> Option<T> {
        let mut place = self.value();
        let value = place.take()?;
        // Fails only if it is not readable.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        Some(value)
    }

    /// Readable while there is a value to take.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn value(&self) -> MutexGuard<'_, Option<T>> {
        // A single value, which a panic cannot leave half updated.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
