//! Access to the device from other threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

/// How long the device may take to close its streams. It waits for nothing but the host's disks, and
/// not at all before the guest has a driver, when there are none.
const SEVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects streams to the guest. Clones refer to the same device.
#[derive(Debug, Clone)]
pub struct VsockHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    requests: Mutex<Requests>,
    /// The device has severed the guest.
    severed: Condvar,
    wake: OwnedFd,
}

/// What the device is to do.
#[derive(Debug, Default)]
struct Requests {
    connects: Vec<(u32, UnixStream)>,
    sever: Sever,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sever {
    #[default]
    No,
    Requested,
    Done,
}

impl VsockHandle {
    pub(super) fn new() -> io::Result<VsockHandle> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(VsockHandle {
            shared: Arc::new(Shared {
                requests: Mutex::default(),
                severed: Condvar::new(),
                wake,
            }),
        })
    }

    /// Connects a stream to a port of the guest, as soon as the guest's driver is ready. If the
    /// guest refuses, the stream is closed.
    pub fn connect(&self, guest_port: u32, stream: UnixStream) {
        let mut requests = self.requests();
        if requests.sever == Sever::No {
            requests.connects.push((guest_port, stream));
        }
        drop(requests);
        self.wake();
    }

    /// Closes all streams. From now on none is opened in either direction. Returns when it is done.
    pub fn sever(&self) {
        let mut requests = self.requests();
        requests.connects.clear();
        if requests.sever == Sever::No {
            requests.sever = Sever::Requested;
        }
        self.wake();
        let pending = |requests: &mut Requests| requests.sever != Sever::Done;
        let severed = &self.shared.severed;
        drop(severed.wait_timeout_while(requests, SEVER_TIMEOUT, pending));
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        let requests = self.shared.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the device.
    pub(super) fn wake(&self) {
        // Fails only if the counter is at its maximum, and then it is readable already.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    /// Clears the wake-up. Whatever is requested from now on wakes the device again.
    pub(super) fn clear_wake(&self) {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
    }

    /// Removes and returns the requested connections.
    pub(super) fn take_requests(&self) -> Vec<(u32, UnixStream)> {
        std::mem::take(&mut self.requests().connects)
    }

    /// Whether the guest is to be severed now.
    pub(super) fn is_to_be_severed(&self) -> bool {
        self.requests().sever == Sever::Requested
    }

    /// The device has severed it.
    pub(super) fn confirm_severed(&self) {
        self.requests().sever = Sever::Done;
        self.shared.severed.notify_all();
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}
