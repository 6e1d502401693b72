//! Frames from a stream that is read as bytes come, so that a slow sender never holds up the
//! command's output.

use std::io;

use microagent_proto::frame::{DATA_CHUNK, Frame, FrameError, HEADER, MAX_PAYLOAD, read_frame};

use crate::stream::Stream;

/// What has been received and not yet taken: less than one whole frame plus one chunk.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

/// What a look at the stream found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Perhaps more bytes.
    Open,
    /// The peer has closed.
    Closed,
}

impl Inbox {
    /// Takes up to [`DATA_CHUNK`] bytes from the stream without waiting.
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

    /// The next whole frame.
    ///
    /// # Errors
    /// The sender breaks the rules of [`microagent_proto::frame`].
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
        fn frames_arrive_whole_however_the_bytes_are_cut(
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
        fn foreign_bytes_are_an_error_or_a_wait_and_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut inbox = Inbox { bytes };
            while let Ok(Some(_)) = inbox.next() {}
        }
    }
}
