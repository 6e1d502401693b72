//! Assembles frames from a stream that is read without blocking, so that a slow sender does not
//! delay the command's output.

use std::io;

use microagent_proto::frame::{DATA_CHUNK, Frame, FrameError, HEADER, MAX_PAYLOAD, read_frame};

use crate::stream::Stream;

/// Bytes that were received but not consumed: less than one complete frame plus one chunk.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

/// The state of the stream after reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// It is open.
    Open,
    /// The peer has closed it.
    Closed,
}

impl Inbox {
    /// Reads up to [`DATA_CHUNK`] bytes from the stream without waiting.
    pub fn fill(&mut self, stream: &Stream) -> Result<Received, FrameError> {
        let start = self.bytes.len();
        self.bytes.resize(start + DATA_CHUNK, 0);
        let outcome = stream.read_nonblocking(&mut self.bytes[start..]);
        self.bytes.truncate(start + *outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Ok(Received::Closed),
            Ok(_) => Ok(Received::Open),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Received::Open),
                _ => Err(error.into()),
            },
        }
    }

    /// Removes the next complete frame.
    ///
    /// # Errors
    /// The frame is invalid (see [`microagent_proto::frame`]).
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(&[_, a, b, c, d]) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length <= MAX_PAYLOAD && self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let mut rest = self.bytes.as_slice();
        let frame = read_frame(&mut rest)?;
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use microagent_proto::frame::{Kind, write_frame};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_are_assembled_from_pieces_of_any_size(
            payloads in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            cut in 1usize..64,
        ) {
            let mut wire = Vec::new();
            for payload in &payloads {
                write_frame(&mut wire, Kind::Stdin, payload).unwrap();
            }
            let mut inbox = Inbox::default();
            let mut arrived = Vec::new();
            for piece in wire.chunks(cut) {
                inbox.bytes.extend_from_slice(piece);
                while let Some(frame) = inbox.next().unwrap() {
                    arrived.push(frame.payload);
                }
            }
            prop_assert_eq!(arrived, payloads);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut inbox = Inbox { bytes };
            while let Ok(Some(_)) = inbox.next() {}
        }
    }
}
