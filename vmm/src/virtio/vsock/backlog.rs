//! Data from the guest that the host has not accepted yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::{SendFlags, send};

use crate::virtio::Segments;

/// Bytes that are waiting to be sent to a stream of the host.
#[derive(Debug, Default)]
pub struct Backlog(VecDeque<u8>);

impl Backlog {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Discards all bytes; returns how many.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }

    /// Sends as much as the stream accepts now; returns the number of bytes.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send(&mut self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let mut sent = 0;
        while !self.0.is_empty() {
            let n = match send(
                stream,
                self.0.as_slices().0,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => return Ok(sent),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            self.0.drain(..n);
            sent += n;
        }
        // Frees the memory of an idle connection.
        self.0 = VecDeque::new();
        Ok(sent)
    }

    /// Sends data directly from guest memory as far as the stream accepts it, if the backlog is
    /// empty, and appends the rest to the backlog; returns the number of bytes sent.
    ///
    /// # Errors
    /// When the stream is closed.
    pub fn send_or_keep(
        &mut self,
        mut data: Segments<'_>,
        stream: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        while self.is_empty() && !data.is_empty() {
            match data.send(stream) {
                Ok(n) => {
                    sent += n;
                    data = data.split_off(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let kept = self.0.len();
        self.0.resize(kept + data.len(), 0);
        let (front, back) = self.0.as_mut_slices();
        // The new space begins at `kept`, in either half.
        if kept < front.len() {
            let (_, room) = front.split_at_mut(kept);
            let n = data.copy_to(room);
            data.split_off(n).copy_to(back);
        } else {
            data.copy_to(&mut back[kept - front.len()..]);
        }
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use vm_memory::VolatileSlice;

    use super::*;

    #[test]
    fn bytes_are_sent_in_order_to_a_slow_host() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut backlog = Backlog::default();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        let mut total_sent = 0;
        for round in 0..2000u32 {
            let mut data: Vec<u8> = (0..1000).map(|i| (round * 31 + i) as u8).collect();
            sent.extend_from_slice(&data);
            let segments = Segments::from(VolatileSlice::from(&mut data[..]));
            total_sent += backlog.send_or_keep(segments, ours.as_fd()).unwrap();
            if round % 3 == 0 && !backlog.is_empty() {
                let mut some = [0; 2500];
                theirs.read_exact(&mut some).unwrap();
                got.extend_from_slice(&some);
                total_sent += backlog.send(ours.as_fd()).unwrap();
            }
        }
        assert!(
            !backlog.is_empty(),
            "the host must be too slow at some point"
        );
        while got.len() < sent.len() {
            let mut some = [0; 4096];
            let n = theirs.read(&mut some).unwrap();
            got.extend_from_slice(&some[..n]);
            total_sent += backlog.send(ours.as_fd()).unwrap();
        }
        assert!(got == sent);
        assert_eq!((total_sent, backlog.len()), (sent.len(), 0));
    }
}
