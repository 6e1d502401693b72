//! Which of the streams that were passed to a supervisor are still open there.
//!
//! This process keeps no descriptor of a stream that it passes on: the client would not see its end.
//! A member of an epoll set is not a descriptor, and leaves the set when the last descriptor of its
//! file is closed, in whatever process (epoll(7)). So the set has the streams that are open, which
//! the kernel lists in `/proc`.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::epoll::{CreateFlags, EventData, EventFlags, add, create};

/// Streams of a VM that are counted.
#[derive(Debug)]
pub struct Streams {
    set: OwnedFd,
    added: Mutex<Option<Instant>>,
}

impl Streams {
    /// None yet.
    ///
    /// # Errors
    /// When this process is out of descriptors.
    pub fn new() -> io::Result<Streams> {
        Ok(Streams {
            set: create(CreateFlags::CLOEXEC)?,
            added: Mutex::new(None),
        })
    }

    /// Counts `stream`, which is about to be passed on.
    pub(super) fn add(&self, stream: &UnixStream) -> io::Result<()> {
        add(
            &self.set,
            stream,
            EventData::new_u64(0),
            EventFlags::empty(),
        )?;
        *self.lock() = Some(Instant::now());
        Ok(())
    }

    /// How many are open.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn open(&self) -> io::Result<usize> {
        let path = format!("/proc/self/fdinfo/{}", self.set.as_raw_fd());
        let info = fs::read_to_string(path)?;
        Ok(info.lines().filter(|line| line.starts_with("tfd:")).count())
    }

    /// When the last one was passed on.
    pub fn last_added(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_stream_counts_until_the_last_descriptor_of_it_is_closed() {
        let streams = Streams::new().unwrap();
        assert_eq!((streams.open().unwrap(), streams.last_added()), (0, None));
        let (mut client, passed) = UnixStream::pair().unwrap();
        let (_other_client, other) = UnixStream::pair().unwrap();
        streams.add(&passed).unwrap();
        streams.add(&other).unwrap();
        assert!(streams.last_added().is_some());
        // As the supervisor gets it.
        let supervisor = passed.try_clone().unwrap();
        drop(passed);
        assert_eq!(streams.open().unwrap(), 2);
        drop(supervisor);
        assert_eq!(streams.open().unwrap(), 1);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(other);
        assert_eq!(streams.open().unwrap(), 0);
    }
}
