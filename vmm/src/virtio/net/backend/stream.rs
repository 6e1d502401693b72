//! Frames in a Unix stream socket, each after its length: 32 bits, big-endian. So speak `passt` and
//! QEMU's `-netdev stream`. The stream has no place for what is left to do, so no offloads.
//!
//! The peer is not trusted: a length that no frame has closes the link, and nothing is allocated by
//! a length. Both directions have a buffer of fixed size: received bytes of up to two frames, and
//! the rest of one frame that the socket took in part.

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

/// How many bytes are received ahead.
const INBOX: usize = 2 * (PREFIX + MAX_FRAME);

/// A connected Unix stream socket.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    readiness: ReadinessFd,
    /// Of a fixed length; `filled` is what was received and not taken.
    inbox: Vec<u8>,
    filled: Range<usize>,
    /// What is left of a frame that was sent in part.
    outbox: Vec<u8>,
    sent: usize,
    open: bool,
}

impl Stream {
    /// A backend that speaks to whoever has the other end.
    ///
    /// # Errors
    /// When the host has no descriptors left.
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

    /// Ends the link; the peer learns of it.
    fn close(&mut self) {
        self.open = false;
        self.filled = 0..0;
        self.outbox = Vec::new();
        self.sent = 0;
        // It fails only when the peer has done the same.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Where the first frame is in the inbox, once all of it is there.
    fn first(&mut self) -> Option<Range<usize>> {
        let received = self.inbox.get(self.filled.clone())?;
        let prefix = received.first_chunk::<PREFIX>()?;
        let len = u32::from_be_bytes(*prefix) as usize;
        if !(1..=MAX_FRAME).contains(&len) {
            tracing::warn!("the peer of a network device sent a length that no frame has");
            self.close();
            return None;
        }
        let start = self.filled.start + PREFIX;
        (start + len <= self.filled.end).then_some(start..start + len)
    }

    /// Receives more; whether there was anything.
    fn receive(&mut self) -> bool {
        // What is there is less than one frame: moved to the front it leaves room for the rest.
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
        // More than one round is for a frame of very many pieces only.
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
    fn lengths_that_no_frame_has_close_the_link() {
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
    fn the_longest_frame_passes() {
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
    fn a_peer_that_goes_takes_the_link_with_it() {
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
    fn a_peer_that_does_not_read_gets_every_byte_later() {
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
            // Nothing of the one that was not taken.
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
        fn frames_are_the_same_however_they_are_cut(
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
