//! How other threads reach the device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Asks the device for connections to the guest. Clones speak to the same device.
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

    /// Connects a stream to a port of the guest, as soon as the guest's driver is up. When the
    /// guest refuses, the stream is closed without a byte.
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

    /// Makes the device look again.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the device is about to wake anyway.
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    /// Takes what was asked for, and the wake-up with it.
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
