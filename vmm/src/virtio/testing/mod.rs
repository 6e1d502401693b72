//! A guest driver, for unit tests and fuzz targets. Its rings are real ones in real guest memory.
//!
//! | file | contents |
//! |---|---|
//! | `ring` | one split virtqueue, as a driver writes and reads it |
//! | `driver` | a driver that lends its queues to a device directly, without a transport |
//! | `registers` | a driver's access to the virtio-mmio registers |
//! | `block`, `net`, `vsock` | the requests of each device, and the guest's sockets |
//!
//! Nothing here checks what it is told to write: the same functions serve drivers that follow the
//! specification and drivers that do not.

// The fuzz targets use only a part.
#![cfg_attr(not(test), allow(dead_code, unused_imports))]

pub mod block;
#[cfg(test)]
mod driver;
pub mod net;
pub mod registers;
mod ring;
#[cfg(test)]
pub mod vsock;

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[cfg(test)]
pub use driver::{BUFFERS, Driver};
pub use ring::{Buffer, SplitRing, readable, writable};

/// Whether `fd` becomes readable within so many milliseconds.
pub fn poll_readable(fd: impl AsFd, milliseconds: i64) -> bool {
    let timeout = Timespec {
        tv_sec: milliseconds / 1000,
        tv_nsec: milliseconds % 1000 * 1_000_000,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) == Ok(1)
}
