//! The host side of a network device. Backends do not access queues.

mod passt;
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

/// Work on a frame that can be left to the receiver (virtio 1.2 section 5.1.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// The checksum of TCP or UDP.
    pub checksum: bool,
    /// TCP segmentation over IPv4.
    pub tso4: bool,
    /// TCP segmentation over IPv6.
    pub tso6: bool,
}

impl Offloads {
    /// Clears the segmentation offloads if there is no checksum offload.
    pub fn consistent(self) -> Offloads {
        Offloads {
            checksum: self.checksum,
            tso4: self.checksum && self.tso4,
            tso6: self.checksum && self.tso6,
        }
    }
}

/// The result of sending a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// It was sent, or will be.
    Accepted,
    /// It was dropped: the peer is disconnected or does not accept it.
    Dropped,
    /// No part of it could be sent now.
    Full,
}

/// A received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The offloads that it requests.
    pub header: Header,
    /// The bytes, from the destination address on.
    pub data: &'a [u8],
}

/// The host side of a network device. No method blocks.
///
/// Frames to send may request every offload; a backend whose peer does not do the work does it
/// itself.
pub trait Backend: Send + Debug {
    /// Sets the offloads that received frames may request. May drop frames that were already
    /// received and could request others.
    ///
    /// # Errors
    /// Those of the host's interface.
    fn set_rx_offloads(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }

    /// Whether the peer is connected. Once `false`, it stays `false`.
    fn link_up(&self) -> bool;

    /// Sends one frame of at most [`MAX_FRAME`](super::MAX_FRAME) bytes with a validated header.
    fn send(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome;

    /// Sends more of a frame that was accepted but only sent in part.
    fn flush(&mut self) {}

    /// The oldest received frame, if any. The same one until [`pop`](Self::pop).
    fn front(&mut self) -> Option<Frame<'_>>;

    /// Removes the frame that [`front`](Self::front) returned.
    fn pop(&mut self);

    /// A file descriptor that is readable while an event of [`set_interest`](Self::set_interest) is
    /// pending. It never changes.
    fn poll_fd(&self) -> BorrowedFd<'_>;

    /// Sets the events to wait for: a frame to receive, room to send one. Room for the rest of an
    /// accepted frame is always waited for.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    fn set_interest(&mut self, receive: bool, send: bool) -> io::Result<()>;
}
