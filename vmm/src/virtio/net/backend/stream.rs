//! A Unix stream socket that carries frames, each after its length (32 bits, big-endian): the
//! protocol of `passt` and of QEMU's `-netdev stream`. It has no header for offloads: a segment of TCP
//! stays as large as the guest made it, which is what `passt` wants: it passes on the data of
//! connections, not segments. For the same reason it needs no checksums, in either direction
//! ([`Stream::for_passt`]); for any other peer, those that the guest left to others are computed here.
//!
//! The peer is not trusted: an invalid length closes the link, and no allocation depends on a
//! length. Both directions have a buffer of bounded size: received bytes of up to two frames, and
//! the rest of one frame that was sent in part.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use microagent_egress::TCP_HEADERS;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use vm_memory::VolatileSlice;

use super::passt::{Outgoing, Passt};
use super::readiness::ReadinessFd;
use super::{Backend, Frame, SendOutcome};
use crate::virtio::Segments;
use crate::virtio::net::checksum;
use crate::virtio::net::header::{Header, MAX_FRAME};

const PREFIX: usize = 4;

/// The size of the receive buffer, in bytes.
const INBOX: usize = 2 * (PREFIX + MAX_FRAME);

/// Who receives the frames.
#[derive(Debug)]
enum Peer {
    /// It checks checksums, and passes on those of others.
    Any,
    /// It reads no checksums, and computes those of the frames that it sends.
    Passt(Passt),
}

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    peer: Peer,
    readiness: ReadinessFd,
    /// Of a fixed length; `filled` is the part that holds received data.
    inbox: Vec<u8>,
    filled: Range<usize>,
    /// The rest of a frame that was sent in part; the first `sent` bytes of it are sent too.
    outbox: Vec<u8>,
    sent: usize,
    open: bool,
}

impl Stream {
    /// A backend on this socket, for any peer.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(socket: UnixStream) -> io::Result<Stream> {
        Stream::with_peer(socket, Peer::Any)
    }

    /// A backend on this socket, for `passt`. It sends the data of TCP and UDP through sockets of
    /// the host, whose kernel computes the checksums, and does not read the guest's. Those that it
    /// sends are its own, of data that it has received from sockets, so the guest need not check
    /// them. Its faults are made good (`passt.rs`).
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn for_passt(socket: UnixStream) -> io::Result<Stream> {
        Stream::with_peer(socket, Peer::Passt(Passt::new()))
    }

    fn with_peer(socket: UnixStream, peer: Peer) -> io::Result<Stream> {
        Ok(Stream {
            socket,
            peer,
            readiness: ReadinessFd::new()?,
            inbox: vec![0; INBOX],
            filled: 0..0,
            outbox: Vec::new(),
            sent: 0,
            open: true,
        })
    }

    /// Closes the link; the peer sees the end of the stream.
    fn close(&mut self) {
        self.open = false;
        self.filled = 0..0;
        self.outbox = Vec::new();
        self.sent = 0;
        // Fails only if the peer has already disconnected.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Sends a frame while nothing else is being sent.
    fn send_whole(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome {
        let Ok(len) = u32::try_from(frame.len()) else {
            return SendOutcome::Dropped;
        };
        if header.needs_checksum() && matches!(self.peer, Peer::Any) {
            return self.send_completed(&header, len, &frame);
        }
        let mut prefix = len.to_be_bytes();
        let mut rest = Segments::from(VolatileSlice::from(&mut prefix[..]));
        rest.append(frame);
        let whole = rest.len();
        // Only a frame of very many segments needs more than one round.
        while !rest.is_empty() {
            match rest.send(self.socket.as_fd()) {
                Ok(n) => rest = rest.split_off(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.close();
                    return SendOutcome::Dropped;
                }
            }
        }
        if rest.len() == whole {
            return SendOutcome::Full;
        }
        self.outbox.resize(rest.len(), 0);
        rest.copy_to(&mut self.outbox);
        SendOutcome::Accepted
    }

    /// Sends a frame of `len` bytes after its checksum was computed.
    fn send_completed(&mut self, header: &Header, len: u32, frame: &Segments<'_>) -> SendOutcome {
        self.outbox.extend_from_slice(&len.to_be_bytes());
        self.outbox.resize(PREFIX + frame.len(), 0);
        frame.copy_to(&mut self.outbox[PREFIX..]);
        checksum::complete(header, &mut self.outbox[PREFIX..]);
        self.flush();
        match (self.open, self.sent) {
            (false, _) => SendOutcome::Dropped,
            (true, 0) if !self.outbox.is_empty() => {
                self.outbox.clear();
                SendOutcome::Full
            }
            (true, _) => SendOutcome::Accepted,
        }
    }

    /// Whether everything that the peer has sent was received and delivered.
    fn is_drained(&self) -> bool {
        self.filled.is_empty() && rustix::io::ioctl_fionread(&self.socket) == Ok(0)
    }

    /// The range of the first frame in the inbox, if it is complete.
    fn first(&mut self) -> Option<Range<usize>> {
        let received = self.inbox.get(self.filled.clone())?;
        let prefix = received.first_chunk::<PREFIX>()?;
        let len = u32::from_be_bytes(*prefix) as usize;
        if !(1..=MAX_FRAME).contains(&len) {
            tracing::warn!("network peer disconnected: it sent an invalid frame length");
            self.close();
            return None;
        }
        let start = self.filled.start + PREFIX;
        (start + len <= self.filled.end).then_some(start..start + len)
    }

    /// Receives more data; `false` if there was none.
    fn receive(&mut self) -> bool {
        // Less than one frame is left: moved to the front, there is room for the rest of it.
        self.inbox.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        let room = &mut self.inbox[self.filled.end..];
        let flags = RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *room, flags)) {
            Ok((n, _)) if n > 0 => {
                self.filled.end += n;
                true
            }
            Err(error) if error == rustix::io::Errno::AGAIN => false,
            Ok(_) | Err(_) => {
                self.close();
                false
            }
        }
    }
}

impl Backend for Stream {
    fn link_up(&self) -> bool {
        self.open
    }

    fn send(&mut self, header: Header, frame: Segments<'_>) -> SendOutcome {
        self.flush();
        if !self.open {
            return SendOutcome::Dropped;
        }
        if !self.outbox.is_empty() {
            return SendOutcome::Full;
        }
        let len = frame.len();
        let mut headers = [0; TCP_HEADERS];
        let segment = match &self.peer {
            Peer::Any => Outgoing::Other,
            Peer::Passt(passt) => {
                let copied = frame.copy_to(&mut headers);
                match passt.read(&headers[..copied], len) {
                    Some(segment) => segment,
                    None => return SendOutcome::Dropped,
                }
            }
        };
        let outcome = self.send_whole(header, frame);
        if let (Peer::Passt(passt), SendOutcome::Accepted) = (&mut self.peer, outcome) {
            let following = passt.sent(segment);
            // If it or the answer may find no room it is left out; the guest repeats what made it
            // necessary.
            if let Some(mut following) = following
                && self.outbox.is_empty()
                && self.is_drained()
            {
                let frame = Segments::from(VolatileSlice::from(&mut following[..]));
                self.send_whole(Header::default(), frame);
            }
        }
        outcome
    }

    fn flush(&mut self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while let Some(rest) = self.outbox.get(self.sent..)
            && !rest.is_empty()
        {
            match rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, rest, flags)) {
                Ok(n) => self.sent += n,
                Err(error) if error == rustix::io::Errno::AGAIN => return,
                Err(_) => return self.close(),
            }
        }
        self.outbox.clear();
        self.sent = 0;
    }

    fn front(&mut self) -> Option<Frame<'_>> {
        loop {
            if let Some(range) = self.first() {
                let header = match &self.peer {
                    Peer::Any => Header::default(),
                    Peer::Passt(passt) => {
                        passt.complete(&mut self.inbox[range.clone()]);
                        Header::valid()
                    }
                };
                return Some(Frame {
                    header,
                    data: &self.inbox[range],
                });
            }
            if !self.open || !self.receive() {
                return None;
            }
        }
    }

    fn pop(&mut self) {
        if let Some(range) = self.first() {
            self.filled.start = range.end;
        }
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.readiness.poll_fd()
    }

    fn set_interest(&mut self, receive: bool, send: bool) -> io::Result<()> {
        let read = self.open && receive;
        let write = self.open && (send || !self.outbox.is_empty());
        self.readiness.set(self.socket.as_fd(), read, write)
    }
}

#[cfg(test)]
mod tests;
