//! A connected stream socket of any family.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A connected stream socket. Writing after the peer has closed it is an error and raises no
/// signal.
#[derive(Debug)]
pub struct Stream(OwnedFd);

impl Stream {
    /// Reads available bytes without waiting: [`io::ErrorKind::WouldBlock`] when there are none, 0
    /// when the peer has closed the stream.
    pub fn read_nonblocking(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::DONTWAIT)?.0)
    }

    /// Whether the peer still reads.
    pub fn is_read(&self) -> bool {
        // Nothing is sent; what would be refused is.
        send(&self.0, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
    }

    /// Sends what is accepted without waiting: [`io::ErrorKind::WouldBlock`] when that is nothing.
    pub fn write_nonblocking(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(send(&self.0, bytes, flags)?)
    }
}

impl From<OwnedFd> for Stream {
    fn from(fd: OwnedFd) -> Stream {
        Stream(fd)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::empty())?.0)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
