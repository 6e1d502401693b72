//! Pieces of guest memory, in order, as one buffer: the scatter list of a request.
//!
//! Data moves between a file or socket and the pieces by `preadv`, `pwritev`, `recvmsg` and
//! `sendmsg`, without a copy on our side. This is the one place of the devices that hands guest
//! addresses to the kernel, and so the one that needs unsafe code.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// How many pieces one system call takes. Longer lists take several calls.
const PIECES_PER_CALL: usize = 256;

/// Pieces of guest memory, in order, as one buffer.
///
/// Every piece was checked to lie within guest memory and stays mapped for `'m`. The guest may
/// change the bytes at any time, so whoever must trust what it read copies first
/// ([`copy_to`](Self::copy_to)) and looks at the copy.
#[derive(Debug, Clone, Default)]
pub struct Segments<'m> {
    pieces: Vec<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Segments<'m> {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a piece at the end.
    pub fn push(&mut self, piece: VolatileSlice<'m>) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Adds the pieces of another buffer at the end.
    pub fn append(&mut self, mut other: Segments<'m>) {
        self.len += other.len;
        self.pieces.append(&mut other.pieces);
    }

    /// Cuts the buffer at `at` (at its end if it is shorter): `self` keeps what is before, the
    /// rest is returned.
    pub fn split_off(&mut self, at: usize) -> Segments<'m> {
        let mut before = 0;
        for index in 0..self.pieces.len() {
            let piece = self.pieces[index];
            if before + piece.len() <= at {
                before += piece.len();
                continue;
            }
            let mut rest = Segments {
                pieces: self.pieces.split_off(index),
                len: self.len - at,
            };
            self.len = at;
            if let Ok((left, right)) = piece.split_at(at - before) {
                rest.pieces[0] = right;
                if !left.is_empty() {
                    self.pieces.push(left);
                }
            }
            return rest;
        }
        Segments::default()
    }

    /// Copies bytes from the start of the buffer out of guest memory; returns how many.
    pub fn copy_to(&self, mut to: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in &self.pieces {
            let n = piece.copy_to(to);
            to = &mut to[n..];
            copied += n;
        }
        copied
    }

    /// Copies bytes to the start of the buffer in guest memory; returns how many.
    pub fn copy_from(&self, mut from: &[u8]) -> usize {
        let mut copied = 0;
        for piece in &self.pieces {
            let n = from.len().min(piece.len());
            piece.copy_from(&from[..n]);
            from = &from[n..];
            copied += n;
        }
        copied
    }

    /// Fills the buffer from a file, beginning at `offset`.
    ///
    /// # Errors
    /// Those of `preadv`, and [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    pub fn read_at(mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let at = signed(offset)?;
            let n = self.with_iovecs(|iovecs, count| {
                // SAFETY: needed because no safe wrapper takes volatile memory. `with_iovecs`
                // gives pointers to memory that is mapped and writable for the whole call.
                unsafe { libc::preadv(file.as_raw_fd(), iovecs, count, at) }
            })?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += n as u64;
            self = self.split_off(n);
        }
        Ok(())
    }

    /// Writes the buffer to a file, beginning at `offset`.
    ///
    /// # Errors
    /// Those of `pwritev`.
    pub fn write_at(mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let at = signed(offset)?;
            let n = self.with_iovecs(|iovecs, count| {
                // SAFETY: needed because no safe wrapper takes volatile memory. `with_iovecs`
                // gives pointers to memory that is mapped for the whole call.
                unsafe { libc::pwritev(file.as_raw_fd(), iovecs, count, at) }
            })?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += n as u64;
            self = self.split_off(n);
        }
        Ok(())
    }

    /// Writes the buffer in one call, for descriptors that take each call as one message. A buffer
    /// of more pieces than a call takes is copied first, so its length is the caller's to bound.
    ///
    /// # Errors
    /// Those of `writev`.
    pub fn write_message(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        if self.pieces.len() > PIECES_PER_CALL {
            let mut bytes = vec![0; self.len];
            self.copy_to(&mut bytes);
            return Ok(rustix::io::write(file, &bytes)?);
        }
        self.with_iovecs(|iovecs, count| {
            // SAFETY: needed because no safe wrapper takes volatile memory. `with_iovecs` gives
            // pointers to memory that is mapped for the whole call.
            unsafe { libc::writev(file.as_raw_fd(), iovecs, count) }
        })
    }

    /// Receives what a stream socket has now, at most the buffer's length; 0 is the stream's end
    /// (or an empty buffer).
    ///
    /// # Errors
    /// Those of `recvmsg`; [`io::ErrorKind::WouldBlock`] when there is nothing now.
    pub fn receive(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.with_iovecs(|iovecs, count| {
            let message = message(iovecs, count);
            // SAFETY: needed because no safe wrapper takes volatile memory. The message names
            // no address and no control buffer, and `with_iovecs` gives pointers to memory that
            // is mapped and writable for the whole call; the kernel only reads the iovecs.
            unsafe {
                libc::recvmsg(
                    socket.as_raw_fd(),
                    &raw const message as *mut _,
                    libc::MSG_DONTWAIT,
                )
            }
        })
    }

    /// Sends as much of the buffer as a stream socket takes now. Never raises `SIGPIPE`.
    ///
    /// # Errors
    /// Those of `sendmsg`; [`io::ErrorKind::WouldBlock`] when the socket takes nothing now.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.with_iovecs(|iovecs, count| {
            let message = message(iovecs, count);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: needed because no safe wrapper takes volatile memory. The message names
            // no address and no control buffer, and `with_iovecs` gives pointers to memory that
            // is mapped for the whole call.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
        })
    }

    /// Runs one system call on the first [`PIECES_PER_CALL`] pieces, again when a signal
    /// interrupts it.
    fn with_iovecs(
        &self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        let count = self.pieces.len().min(PIECES_PER_CALL);
        // The guards keep the pieces mapped until the call is over.
        let guards: Vec<_> = self.pieces[..count]
            .iter()
            .map(|p| p.ptr_guard_mut())
            .collect();
        let iovecs: Vec<libc::iovec> = guards
            .iter()
            .map(|guard| libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: guard.len(),
            })
            .collect();
        loop {
            let n = call(iovecs.as_ptr(), count as libc::c_int);
            if n >= 0 {
                return Ok(n as usize);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl<'m> From<VolatileSlice<'m>> for Segments<'m> {
    fn from(piece: VolatileSlice<'m>) -> Self {
        let mut segments = Segments::default();
        segments.push(piece);
        segments
    }
}

fn signed(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn message(iovecs: *const libc::iovec, count: libc::c_int) -> libc::msghdr {
    // SAFETY: needed because `msghdr` has private padding on some targets. All its fields are
    // integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.cast_mut();
    message.msg_iovlen = count as _;
    message
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pieces<'m>(memory: &'m mut [u8], sizes: &[usize]) -> Segments<'m> {
        let whole = VolatileSlice::from(memory);
        let mut segments = Segments::default();
        let mut at = 0;
        for &size in sizes {
            segments.push(whole.subslice(at, size).unwrap());
            at += size;
        }
        segments
    }

    #[test]
    fn a_cut_keeps_every_byte_on_its_side() {
        for at in 0..=12 {
            let mut memory = *b"abcdefghij";
            let mut front = pieces(&mut memory, &[3, 0, 1, 6]);
            let back = front.split_off(at);
            let (mut left, mut right) = ([0; 10], [0; 10]);
            let n = front.copy_to(&mut left);
            let m = back.copy_to(&mut right);
            assert_eq!((n, m), (at.min(10), 10 - at.min(10)));
            assert_eq!((front.len(), back.len()), (n, m));
            assert_eq!([&left[..n], &right[..m]].concat(), b"abcdefghij");
        }
    }

    #[test]
    fn files_are_read_and_written_at_an_offset_in_more_pieces_than_one_call_takes() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2000u32).map(|i| (i * 7) as u8).collect();
        let mut memory = content.clone();
        let sizes = vec![2; 1000];
        pieces(&mut memory, &sizes)
            .write_at(file.as_fd(), 5)
            .unwrap();
        let mut back = vec![0; 2000];
        pieces(&mut back, &sizes).read_at(file.as_fd(), 5).unwrap();
        assert_eq!(back, content);
        let mut whole = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!((&whole[..5], &whole[5..]), (&[0; 5][..], &content[..]));
    }

    #[test]
    fn a_message_is_one_however_many_pieces_it_has() {
        let kind = rustix::net::SocketType::SEQPACKET;
        let family = rustix::net::AddressFamily::UNIX;
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(family, kind, flags, None).unwrap();
        for count in [1, PIECES_PER_CALL, PIECES_PER_CALL + 1, 1000] {
            let content: Vec<u8> = (0..2 * count).map(|i| (i * 7) as u8).collect();
            let mut memory = content.clone();
            let (front, back) = (vec![2; count / 2], vec![2; count - count / 2]);
            let mut message = pieces(&mut memory, &[front, back].concat());
            let back = message.split_off(count / 2);
            message.append(back);
            assert_eq!(message.write_message(ours.as_fd()).unwrap(), 2 * count);
            let mut got = vec![0; 4000];
            let n = rustix::io::read(&theirs, &mut got).unwrap();
            assert!(got[..n] == content, "{count} pieces");
        }
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mut memory = [0; 4];
        let error = pieces(&mut memory, &[4])
            .read_at(file.as_fd(), 0)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sockets_carry_what_they_can_and_say_when_they_cannot() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut memory = *b"hello";
        assert_eq!(
            pieces(&mut memory, &[2, 3]).send(theirs.as_fd()).unwrap(),
            5
        );
        let mut got = [0; 5];
        ours.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");

        let mut memory = [0; 8];
        let segments = pieces(&mut memory, &[1, 7]);
        let error = segments.receive(theirs.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        ours.write_all(b"back").unwrap();
        assert_eq!(segments.receive(theirs.as_fd()).unwrap(), 4);
        drop(ours);
        assert_eq!(segments.receive(theirs.as_fd()).unwrap(), 0);
        assert_eq!(
            segments.send(theirs.as_fd()).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        assert_eq!(&memory[..4], b"back");
    }
}
