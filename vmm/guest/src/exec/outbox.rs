//! Frames for the host that it has not accepted yet.

use std::io;

use microagent_proto::agent::Reply;
use microagent_proto::frame::{DATA_CHUNK, FrameError, HEADER, Kind, append_frame};

use crate::stream::Stream;

/// Bytes to send. Output is added only while nothing is pending, so that a host that does not read
/// stalls the command, and not its input or signals.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// An empty outbox.
    pub fn new() -> Outbox {
        Outbox {
            bytes: Vec::with_capacity(2 * (HEADER + DATA_CHUNK)),
            sent: 0,
        }
    }

    /// Everything has been sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Adds a frame.
    pub fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
        append_frame(&mut self.bytes, kind, payload)
    }

    /// Adds a reply.
    pub fn reply(&mut self, reply: &Reply) -> Result<(), FrameError> {
        self.frame(Kind::Message, &serde_json::to_vec(reply)?)
    }

    /// The stream is another one: what was sent in part is sent again from the start of its frame.
    pub fn begin_anew(&mut self) {
        let mut start = 0;
        while let Some(header) = self.bytes.get(start..).and_then(|rest| rest.first_chunk()) {
            let [_, length @ ..]: &[u8; HEADER] = header;
            let end = start + HEADER + u32::from_le_bytes(*length) as usize;
            if end > self.sent {
                break;
            }
            start = end;
        }
        self.sent = start;
    }

    /// Sends what the stream accepts without waiting.
    pub fn flush(&mut self, stream: &Stream) -> Result<(), FrameError> {
        while !self.is_empty() {
            match stream.write_nonblocking(&self.bytes[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_frame_that_was_sent_in_part_is_sent_again() {
        let frames = [vec![1; 3], Vec::new(), vec![2; 500]];
        let lengths = frames.each_ref().map(|frame| HEADER + frame.len());
        for (sent, left) in [
            (0, 3),
            (4, 3),
            (lengths[0], 2),
            (lengths[0] + lengths[1] + 1, 1),
            (lengths[0] + lengths[1] + lengths[2] - 1, 1),
        ] {
            let mut outbox = Outbox::new();
            for frame in &frames {
                outbox.frame(Kind::Stdout, frame).unwrap();
            }
            outbox.sent = sent;
            outbox.begin_anew();
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            outbox.flush(&Stream::from(OwnedFd::from(theirs))).unwrap();
            let mut got = Vec::new();
            ours.read_to_end(&mut got).unwrap();
            assert_eq!(
                got.len(),
                lengths[3 - left..].iter().sum::<usize>(),
                "{sent}"
            );
        }
    }
}
