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
