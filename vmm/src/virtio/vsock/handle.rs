//! Access to the device from other threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Connects streams to the guest. Clones refer to the same device.
#[derive(Debug, Clone)]
pub struct VsockHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connects: Mutex<Vec<(u32, UnixStream)>>,
    wake: OwnedFd,
}

impl VsockHandle {
    pub(super) fn new() -> io::Result<VsockHandle> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(VsockHandle {
            shared: Arc::new(Shared {
                connects: Mutex::default(),
                wake,
            }),
        })
    }

    /// Connects a stream to a port of the guest, as soon as the guest's driver is ready. If the
    /// guest refuses, the stream is closed.
    pub fn connect(&self, guest_port: u32, stream: UnixStream) {
        let mut connects = self
            .shared
            .connects
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connects.push((guest_port, stream));
        drop(connects);
        self.wake();
    }

    /// Wakes the device.
    pub(super) fn wake(&self) {
        // Fails only if the counter is at its maximum, and then it is readable already.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    /// Removes and returns the requested connections, and clears the wake-up.
    pub(super) fn take_requests(&self) -> Vec<(u32, UnixStream)> {
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        let mut connects = self
            .shared
            .connects
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut connects)
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}
