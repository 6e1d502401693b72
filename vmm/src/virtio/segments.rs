//! A scatter-gather list of guest memory: the buffers of a request, in order.
//!
//! `preadv`, `pwritev`, `writev`, `recvmsg` and `sendmsg` transfer data between a file or socket
//! and the segments without an intermediate copy. This is the only device code that passes guest
//! addresses to the kernel, so it is where unsafe code is needed.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The maximum number of segments in one system call. Longer lists need several calls.
const SEGMENTS_PER_CALL: usize = 256;

/// A list of segments of guest memory, used as one buffer.
///
/// Every segment is within guest memory and stays mapped for `'m`. The guest may change the bytes
/// at any time, so data that is validated must be copied first ([`copy_to`](Self::copy_to)).
#[derive(Debug, Clone, Default)]
pub struct Segments<'m> {
    segments: Vec<VolatileSlice<'m>>,
    len: usize,
}

impl<'m> Segments<'m> {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a segment.
    pub fn push(&mut self, segment: VolatileSlice<'m>) {
        if !segment.is_empty() {
            self.len += segment.len();
            self.segments.push(segment);
        }
    }

    /// Appends the segments of another list.
    pub fn append(&mut self, mut other: Segments<'m>) {
        self.len += other.len;
        self.segments.append(&mut other.segments);
    }

    /// Splits the buffer at byte `at`, or at its end if it is shorter: `self` keeps the first part,
    /// the rest is returned.
    pub fn split_off(&mut self, at: usize) -> Segments<'m> {
        let mut before = 0;
        for index in 0..self.segments.len() {
            let segment = self.segments[index];
            if before + segment.len() <= at {
                before += segment.len();
                continue;
            }
            let mut rest = Segments {
                segments: self.segments.split_off(index),
                len: self.len - at,
            };
            self.len = at;
            if let Ok((left, right)) = segment.split_at(at - before) {
                rest.segments[0] = right;
                if !left.is_empty() {
                    self.segments.push(left);
                }
            }
            return rest;
        }
        Segments::default()
    }

    /// Copies bytes out of guest memory, from the start of the buffer; returns the number of bytes.
    pub fn copy_to(&self, mut to: &mut [u8]) -> usize {
        let mut copied = 0;
        for segment in &self.segments {
            let n = segment.copy_to(to);
            to = &mut to[n..];
            copied += n;
        }
        copied
    }

    /// Copies bytes into guest memory, to the start of the buffer; returns the number of bytes.
    pub fn copy_from(&self, mut from: &[u8]) -> usize {
        let mut copied = 0;
        for segment in &self.segments {
            let n = from.len().min(segment.len());
            segment.copy_from(&from[..n]);
            from = &from[n..];
            copied += n;
        }
        copied
    }

    /// Fills the buffer from a file at `offset`.
    ///
    /// # Errors
    /// Those of `preadv`, and [`io::ErrorKind::UnexpectedEof`] when the file is too short.
    pub fn read_at(mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let at = signed(offset)?;
            let n = self.with_iovecs(|iovecs, count| {
                // SAFETY: needed because no safe wrapper accepts volatile memory. `with_iovecs`
                // passes pointers to memory that is mapped and writable during the call.
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

    /// Writes the buffer to a file at `offset`.
    ///
    /// # Errors
    /// Those of `pwritev`.
    pub fn write_at(mut self, file: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        while !self.is_empty() {
            let at = signed(offset)?;
            let n = self.with_iovecs(|iovecs, count| {
                // SAFETY: needed because no safe wrapper accepts volatile memory. `with_iovecs`
                // passes pointers to memory that is mapped during the call.
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

    /// Writes the buffer in one call, for file descriptors where a call is one message. A buffer of
    /// more segments than fit in a call is copied first, so the caller must bound its length.
    ///
    /// # Errors
    /// Those of `writev`.
    pub fn write_message(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        if self.segments.len() > SEGMENTS_PER_CALL {
            let mut bytes = vec![0; self.len];
            self.copy_to(&mut bytes);
            return Ok(rustix::io::write(file, &bytes)?);
        }
        self.with_iovecs(|iovecs, count| {
            // SAFETY: needed because no safe wrapper accepts volatile memory. `with_iovecs` passes
            // pointers to memory that is mapped during the call.
            unsafe { libc::writev(file.as_raw_fd(), iovecs, count) }
        })
    }

    /// Receives available data from a stream socket, without blocking. Returns the number of bytes;
    /// 0 is the end of the stream, or an empty buffer.
    ///
    /// # Errors
    /// Those of `recvmsg`; [`io::ErrorKind::WouldBlock`] when no data is available.
    pub fn receive(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.with_iovecs(|iovecs, count| {
            let message = message(iovecs, count);
            // SAFETY: needed because no safe wrapper accepts volatile memory. The message has no
            // address and no control buffer, and `with_iovecs` passes pointers to memory that is
            // mapped and writable during the call; the kernel only reads the iovecs.
            unsafe {
                libc::recvmsg(
                    socket.as_raw_fd(),
                    &raw const message as *mut _,
                    libc::MSG_DONTWAIT,
                )
            }
        })
    }

    /// Sends as much of the buffer as fits into a stream socket, without blocking and without
    /// `SIGPIPE`. Returns the number of bytes.
    ///
    /// # Errors
    /// Those of `sendmsg`; [`io::ErrorKind::WouldBlock`] when the socket is full.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.with_iovecs(|iovecs, count| {
            let message = message(iovecs, count);
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: needed because no safe wrapper accepts volatile memory. The message has no
            // address and no control buffer, and `with_iovecs` passes pointers to memory that is
            // mapped during the call.
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) }
        })
    }

    /// Makes one system call with the first [`SEGMENTS_PER_CALL`] segments, and repeats it when a
    /// signal interrupts it.
    fn with_iovecs(
        &self,
        call: impl Fn(*const libc::iovec, libc::c_int) -> libc::ssize_t,
    ) -> io::Result<usize> {
        let count = self.segments.len().min(SEGMENTS_PER_CALL);
        // The guards keep the segments mapped until the call returns.
        let guards: Vec<_> = self.segments[..count]
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
    fn from(segment: VolatileSlice<'m>) -> Self {
        let mut segments = Segments::default();
        segments.push(segment);
        segments
    }
}

fn signed(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn message(iovecs: *const libc::iovec, count: libc::c_int) -> libc::msghdr {
    // SAFETY: needed because `msghdr` has private padding on some targets. All its fields are
    // integers and pointers, for which zero is valid.
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

    fn segments<'m>(memory: &'m mut [u8], sizes: &[usize]) -> Segments<'m> {
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
    fn a_split_keeps_every_byte_on_its_side() {
        for at in 0..=12 {
            let mut memory = *b"abcdefghij";
            let mut front = segments(&mut memory, &[3, 0, 1, 6]);
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
    fn a_file_is_read_and_written_at_an_offset_with_more_segments_than_fit_in_a_call() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2000u32).map(|i| (i * 7) as u8).collect();
        let mut memory = content.clone();
        let sizes = vec![2; 1000];
        segments(&mut memory, &sizes)
            .write_at(file.as_fd(), 5)
            .unwrap();
        let mut back = vec![0; 2000];
        segments(&mut back, &sizes)
            .read_at(file.as_fd(), 5)
            .unwrap();
        assert_eq!(back, content);
        let mut whole = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!((&whole[..5], &whole[5..]), (&[0; 5][..], &content[..]));
    }

    #[test]
    fn a_message_of_any_number_of_segments_is_written_in_one_call() {
        let kind = rustix::net::SocketType::SEQPACKET;
        let family = rustix::net::AddressFamily::UNIX;
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(family, kind, flags, None).unwrap();
        for count in [1, SEGMENTS_PER_CALL, SEGMENTS_PER_CALL + 1, 1000] {
            let content: Vec<u8> = (0..2 * count).map(|i| (i * 7) as u8).collect();
            let mut memory = content.clone();
            let (front, back) = (vec![2; count / 2], vec![2; count - count / 2]);
            let mut message = segments(&mut memory, &[front, back].concat());
            let back = message.split_off(count / 2);
            message.append(back);
            assert_eq!(message.write_message(ours.as_fd()).unwrap(), 2 * count);
            let mut got = vec![0; 4000];
            let n = rustix::io::read(&theirs, &mut got).unwrap();
            assert!(got[..n] == content, "{count} segments");
        }
    }

    #[test]
    fn reading_past_the_end_of_a_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mut memory = [0; 4];
        let error = segments(&mut memory, &[4])
            .read_at(file.as_fd(), 0)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sockets_transfer_available_data_or_return_would_block() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut memory = *b"hello";
        assert_eq!(
            segments(&mut memory, &[2, 3]).send(theirs.as_fd()).unwrap(),
            5
        );
        let mut got = [0; 5];
        ours.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");

        let mut memory = [0; 8];
        let segments = segments(&mut memory, &[1, 7]);
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
