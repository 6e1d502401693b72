//! A Unix stream socket that carries frames, each after its length (32 bits, big-endian): the
//! protocol of `passt` and of QEMU's `-netdev stream`. It has no header for offloads, so there are
//! none.
//!
//! The peer is not trusted: an invalid length closes the link, and no allocation depends on a
//! length. Both directions have a buffer of bounded size: received bytes of up to two frames, and
//! the rest of one frame that was sent in part.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags, Shutdown};
use vm_memory::VolatileSlice;

use super::readiness::ReadinessFd;
use super::{Backend, Frame, Offloads, SendOutcome};
use crate::virtio::Segments;
use crate::virtio::net::header::{Header, MAX_FRAME};

const PREFIX: usize = 4;

/// The size of the receive buffer, in bytes.
const INBOX: usize = 2 * (PREFIX + MAX_FRAME);

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
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
    /// A backend on this socket.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new(socket: UnixStream) -> io::Result<Stream> {
        Ok(Stream {
            socket,
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
    fn offloads(&self) -> Offloads {
        Offloads::default()
    }

    fn link_up(&self) -> bool {
        self.open
    }

    fn send(&mut self, _header: Header, frame: Segments<'_>) -> SendOutcome {
        self.flush();
        if !self.open {
            return SendOutcome::Dropped;
        }
        if !self.outbox.is_empty() {
            return SendOutcome::Full;
        }
        let Ok(len) = u32::try_from(frame.len()) else {
            return SendOutcome::Dropped;
        };
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
                return Some(Frame {
                    header: Header::default(),
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
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;

    use super::*;
    use crate::virtio::testing::net::framed;

    fn pair() -> (UnixStream, Stream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Stream::new(theirs).unwrap())
    }

    fn send(stream: &mut Stream, frame: &[u8]) -> SendOutcome {
        let mut memory = frame.to_vec();
        let segments = Segments::from(VolatileSlice::from(&mut memory[..]));
        stream.send(Header::default(), segments)
    }

    #[test]
    fn an_invalid_length_closes_the_link() {
        for len in [0, MAX_FRAME as u32 + 1, u32::MAX] {
            let (mut peer, mut stream) = pair();
            peer.write_all(&framed(b"before")).unwrap();
            peer.write_all(&len.to_be_bytes()).unwrap();
            assert_eq!(stream.front().unwrap().data, b"before");
            stream.pop();
            assert!(stream.link_up());
            assert_eq!(stream.front(), None);
            assert!(!stream.link_up());
            assert_eq!(send(&mut stream, b"late"), SendOutcome::Dropped);
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
        }
    }

    #[test]
    fn a_frame_of_maximum_length_is_received() {
        let (mut peer, mut stream) = pair();
        let frame: Vec<u8> = (0..MAX_FRAME).map(|i| (i * 7) as u8).collect();
        let bytes = framed(&frame);
        let (front, back) = bytes.split_at(100);
        peer.write_all(front).unwrap();
        assert_eq!(stream.front(), None);
        peer.write_all(back).unwrap();
        assert!(stream.front().unwrap().data == frame);
        assert!(stream.front().unwrap().data == frame);
        stream.pop();
        assert_eq!(stream.front(), None);
        assert!(stream.link_up());
    }

    #[test]
    fn the_link_goes_down_when_the_peer_disconnects() {
        let (peer, mut stream) = pair();
        drop(peer);
        assert_eq!(stream.front(), None);
        assert!(!stream.link_up());
        let (peer, mut stream) = pair();
        drop(peer);
        assert_eq!(send(&mut stream, b"frame"), SendOutcome::Dropped);
        assert!(!stream.link_up());
    }

    #[test]
    fn a_peer_that_starts_to_read_late_receives_every_byte() {
        let (mut peer, mut stream) = pair();
        let frame = |n: usize| vec![n as u8; 50_000];
        let mut count = 0;
        while send(&mut stream, &frame(count)) == SendOutcome::Accepted {
            count += 1;
        }
        assert!(count > 0);
        let reader = std::thread::spawn(move || {
            for n in 0..count {
                let mut got = vec![0; PREFIX + 50_000];
                peer.read_exact(&mut got).unwrap();
                assert!(got == framed(&frame(n)), "frame {n}");
            }
            // Nothing of the frame that was not accepted.
            assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        });
        stream.set_interest(false, true).unwrap();
        while !stream.outbox.is_empty() {
            let fd = stream.poll_fd();
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
            stream.flush();
        }
        drop(stream);
        reader.join().unwrap();
    }

    proptest! {
        #[test]
        fn frames_are_reassembled_from_any_pieces(
            lens in prop::collection::vec(1usize..3000, 1..20),
            cuts in prop::collection::vec(1usize..5000, 1..20),
        ) {
            let (mut peer, mut stream) = pair();
            let frames: Vec<Vec<u8>> = lens.iter().map(|&len| vec![len as u8; len]).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
            let (mut rest, mut got) = (&bytes[..], Vec::new());
            for &cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                peer.write_all(now).unwrap();
                while let Some(frame) = stream.front() {
                    got.push(frame.data.to_vec());
                    stream.pop();
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(got == frames);
        }
    }
}
