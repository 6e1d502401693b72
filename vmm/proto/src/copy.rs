//! Copying one direction of a connection, at both ends of a link to the guest.

use std::io::{self, Read, Write};

use crate::frame::DATA_CHUNK;

/// The first size of the buffer, in bytes. Most connections are short or slow.
const FIRST: usize = 8 << 10;

/// The maximum size of the buffer, in bytes: as much as a data frame, or a packet of vsock, carries.
const MOST: usize = DATA_CHUNK;

/// A buffer for reads, which grows while they fill it: a fast stream needs few system calls and few
/// packets, and a short one little memory, which would have to be cleared.
#[derive(Debug)]
pub struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    /// An empty buffer of the first size.
    pub fn new() -> ReadBuffer {
        ReadBuffer(vec![0; FIRST])
    }

    /// Where the next read puts its bytes.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The first `count` bytes, which a read has put there.
    ///
    /// # Panics
    /// If `count` is larger than the space was.
    pub fn read(&self, count: usize) -> &[u8] {
        &self.0[..count]
    }

    /// Grows if a read of `count` bytes has filled it. What it holds is no longer needed.
    pub fn grow(&mut self, count: usize) {
        if count == self.0.len() && count < MOST {
            self.0.resize(MOST.min(2 * count), 0);
        }
    }
}

impl Default for ReadBuffer {
    fn default() -> ReadBuffer {
        ReadBuffer::new()
    }
}

/// Copies until the end of `from`.
///
/// # Errors
/// Those of either side.
pub fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = ReadBuffer::new();
    loop {
        let count = match from.read(buffer.space()) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(buffer.read(count))?;
        buffer.grow(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for, interrupted every other time, and the sizes that were asked for.
    struct Source(Vec<u8>, Vec<usize>);

    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1.push(buffer.len());
            if self.1.len().is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = buffer.len().min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    #[test]
    fn the_buffer_grows_to_its_maximum_and_every_byte_is_copied() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut source, mut copied) = (Source(bytes.clone(), Vec::new()), Vec::new());
        copy(&mut source, &mut copied).unwrap();
        assert!(copied == bytes);
        assert_eq!(source.1[0], FIRST);
        assert_eq!(source.1.iter().max(), Some(&MOST));
        // Little at a time leaves it small.
        let mut source = Source(vec![7; FIRST - 1], Vec::new());
        copy(&mut source, io::sink()).unwrap();
        assert_eq!(source.1, [FIRST; 3]);
    }

    #[test]
    fn an_error_of_either_side_ends_it() {
        let refused = copy(&[1; 10][..], &mut [0; 5][..]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WriteZero);
        let broken = io::Cursor::new([1; 10]).chain(Broken);
        let mut copied = Vec::new();
        let error = copy(broken, &mut copied).unwrap_err();
        assert_eq!(
            (error.kind(), copied.len()),
            (io::ErrorKind::BrokenPipe, 10)
        );
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }
}
