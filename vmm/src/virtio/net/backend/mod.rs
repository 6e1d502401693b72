//! Where a network device's frames go to and come from. A backend knows no queues.

mod readiness;
mod stream;
mod tap;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

pub use stream::Stream;
pub use tap::{Tap, TapError};

use super::header::Header;
use crate::virtio::Segments;

/// What can be left for the other side to do to a frame (virtio 1.2 section 5.1.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The checksum of TCP or UDP.
    pub checksum: bool,
    /// Cutting a frame of TCP over IPv4 into segments.
    pub tso4: bool,
    /// Cutting a frame of TCP over IPv6 into segments.
    pub tso6: bool,
}

impl Offloads {
    /// Without segmentation where there are no checksums.
    pub fn consistent(self) -> Offloads {
        Offloads {
            checksum: self.checksum,
            tso4: self.checksum && self.tso4,
            tso6: self.checksum && self.tso6,
        }
    }
}

/// What happened to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// It is on its way.
    Accepted,
    /// It is lost: the other side is gone, or will not have it.
    Dropped,
    /// It could not be sent now; nothing of it was.
    Full,
}

/// A frame that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What is still to be done to it.
    pub header: Header,
    /// The frame itself.
    pub data: &'a [u8],
}

/// The host's side of a network device. No method waits.
pub trait Backend: Send + Debug {
    /// What frames may ask for, in both directions.
    fn offloads(&self) -> Offloads;

    /// From now on received frames may ask for this, at most what [`carries`](Self::carries) says.
    /// Those that were received before are forgotten where they might ask for more.
    ///
    /// # Errors
    /// When the host refuses.
    fn set_rx_offloads(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    /// Whether there is somebody on the other side. Once it is `false` it stays so.
    fn link_up(&self) -> bool;

    /// Sends one frame of at most [`MAX_FRAME`](super::MAX_FRAME) bytes, whose header was checked.
    fn send(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome;

    /// Goes on with what was taken but is not sent yet.
    fn flush(&mut self) {}

    /// The first frame that was received, the same one until [`pop`](Self::pop). `None` when there
    /// is none now.
    fn front(&mut self) -> Option<Frame<'_>>;

    /// Forgets the frame that [`front`](Self::front) gave.
    fn pop(&mut self);

    /// A descriptor that is readable when what was [`wait`](Self::wait)ed for can be done. The
    /// same one for the backend's life.
    fn poll_fd(&self) -> BorrowedFd<'_>;

    /// What to wait for: a frame to receive, room to send one. What was taken but is not sent yet
    /// is waited for in any case.
    ///
    /// # Errors
    /// When the host has no memory to wait with.
    fn set_interest(&mut self, receive: bool, send: bool) -> io::Result<()>;
}
