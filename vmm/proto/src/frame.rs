//! Frames of an agent session.
//!
//! Layout: one byte for the kind, four bytes for the payload length (little-endian), the payload. A
//! payload longer than [`MAX_PAYLOAD`] bytes ([`MAX_REQUEST`] for a request) ends the session.
//! Frames of kind [`Kind::Message`] hold one JSON message of [`crate::agent`]; all others hold raw
//! bytes. The first frame of each direction follows an [`envelope`].

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::VERSION;
use crate::envelope::{self, Mismatch, Program};

/// The maximum payload of a frame, in bytes. Data frames are limited to [`DATA_CHUNK`] by senders.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The maximum payload of the frame that opens a session, in bytes: Linux allows a command 2 MiB of
/// arguments and environment, and JSON needs up to six bytes for one.
pub const MAX_REQUEST: usize = 16 << 20;

/// The maximum payload of a data frame that senders use, in bytes. Large enough that header and
/// wake-up cost little, small enough to interleave two streams.
pub const DATA_CHUNK: usize = 64 << 10;

/// The length of a frame's header, in bytes.
pub const HEADER: usize = 5;

/// The kind of a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A JSON message: a request, a reply or an input.
    Message = 1,
    /// Bytes for the command's standard input. An empty frame closes it.
    Stdin = 2,
    /// Bytes of the command's standard output.
    Stdout = 3,
    /// Bytes of the command's standard error.
    Stderr = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Message,
            2 => Kind::Stdin,
            3 => Kind::Stdout,
            4 => Kind::Stderr,
            _ => return None,
        })
    }
}

/// A received frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind of its payload.
    pub kind: Kind,
    /// The payload, at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("session stream error")]
    Io(#[from] io::Error),
    /// The peer sent a frame of unknown kind.
    #[error("the peer sent a frame of unknown kind {0}")]
    UnknownKind(u8),
    /// The frame is longer than [`MAX_PAYLOAD`] or [`MAX_REQUEST`].
    #[error("a frame of {0} bytes exceeds the limit")]
    TooLong(usize),
    /// The JSON of a message is invalid or unknown.
    #[error("invalid message from the peer")]
    BadMessage(#[from] serde_json::Error),
    /// The peer ignored the limit on standard input.
    #[error("the peer sent more standard input than the command had read")]
    StdinWindow,
    /// The peer sent a frame of the wrong kind.
    #[error("the peer sent {got:?} instead of {expected}")]
    Unexpected {
        /// The kind that was received.
        got: Kind,
        /// What was expected.
        expected: &'static str,
    },
    /// The peer uses another version of the protocol.
    #[error(transparent)]
    Version(#[from] Mismatch),
    /// The stream ended before the expected frame.
    #[error("the peer closed the stream before sending {0}")]
    Closed(&'static str),
}

/// Writes one frame with a single `write_all`.
///
/// # Errors
/// [`FrameError::TooLong`] above [`MAX_PAYLOAD`]; [`FrameError::Io`] from the stream.
pub fn write_frame(stream: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    let mut buffer = Vec::with_capacity(HEADER + payload.len());
    append_frame(&mut buffer, kind, payload)?;
    stream.write_all(&buffer)?;
    Ok(())
}

/// Appends one frame to `buffer`.
///
/// # Errors
/// [`FrameError::TooLong`] above [`MAX_PAYLOAD`].
pub fn append_frame(buffer: &mut Vec<u8>, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    append_frame_up_to(MAX_PAYLOAD, buffer, kind, payload)
}

fn append_frame_up_to(
    limit: usize,
    buffer: &mut Vec<u8>,
    kind: Kind,
    payload: &[u8],
) -> Result<(), FrameError> {
    if payload.len() > limit {
        return Err(FrameError::TooLong(payload.len()));
    }
    buffer.push(kind as u8);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(payload);
    Ok(())
}

/// Writes the envelope and `message`: the first bytes of a direction, with a single `write_all`.
///
/// # Errors
/// [`FrameError::TooLong`] above [`MAX_REQUEST`]; [`FrameError::Io`] from the stream.
pub fn write_opening<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let mut buffer = envelope::envelope(VERSION).to_vec();
    let payload = serde_json::to_vec(message)?;
    append_frame_up_to(MAX_REQUEST, &mut buffer, Kind::Message, &payload)?;
    stream.write_all(&buffer)?;
    Ok(())
}

/// Reads the envelope and the first message of a direction, which errors call `what`. The agent,
/// which trusts the host, accepts up to [`MAX_REQUEST`] bytes; the others up to [`MAX_PAYLOAD`].
///
/// # Errors
/// [`FrameError::Version`] if `peer` uses a version that is not understood, or another one and the
/// message cannot be read; otherwise as [`read_message`].
pub fn read_opening<T: DeserializeOwned>(
    stream: &mut impl Read,
    us: Program,
    peer: Program,
    what: &'static str,
) -> Result<T, FrameError> {
    let mut envelope = [0; envelope::LENGTH];
    if !fill(stream, &mut envelope)? {
        return Err(FrameError::Closed(what));
    }
    let version = envelope::accept(&envelope, us, peer)?;
    let limit = match us {
        Program::Agent => MAX_REQUEST,
        Program::CommandLine | Program::Supervisor => MAX_PAYLOAD,
    };
    let read = read_frame_up_to(limit, stream).and_then(|frame| parse_message(frame, what));
    match read {
        // The stream itself is in order: the message is one that the other version does not have.
        Err(FrameError::Closed(_) | FrameError::BadMessage(_)) if version != VERSION => {
            let version = Some(version);
            Err(Mismatch { us, peer, version }.into())
        }
        read => read,
    }
}

/// Fills `buffer`. Returns false at the end of the stream.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<bool, FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Writes `message` as one [`Kind::Message`] frame.
///
/// # Errors
/// As [`write_frame`].
pub fn write_message<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    write_frame(stream, Kind::Message, &serde_json::to_vec(message)?)
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// [`FrameError::Io`] from the stream, or when it ends inside a frame; [`FrameError::TooLong`] and
/// [`FrameError::UnknownKind`] for an invalid header.
pub fn read_frame(stream: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    read_frame_up_to(MAX_PAYLOAD, stream)
}

fn read_frame_up_to(limit: usize, stream: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    let mut header = [0u8; HEADER];
    if !fill(stream, &mut header)? {
        return Ok(None);
    }
    let kind = Kind::from_byte(header[0]).ok_or(FrameError::UnknownKind(header[0]))?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > limit {
        return Err(FrameError::TooLong(length));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Reads one frame and parses it as a message, which errors call `what`.
///
/// # Errors
/// As [`read_frame`]; [`FrameError::Closed`] at the end of the stream, [`FrameError::Unexpected`]
/// for another kind of frame, [`FrameError::BadMessage`] for invalid JSON.
pub fn read_message<T: DeserializeOwned>(
    stream: &mut impl Read,
    what: &'static str,
) -> Result<T, FrameError> {
    parse_message(read_frame(stream)?, what)
}

fn parse_message<T: DeserializeOwned>(
    frame: Option<Frame>,
    what: &'static str,
) -> Result<T, FrameError> {
    match frame {
        None => Err(FrameError::Closed(what)),
        Some(frame) if frame.kind == Kind::Message => Ok(serde_json::from_slice(&frame.payload)?),
        Some(frame) => Err(FrameError::Unexpected {
            got: frame.kind,
            expected: what,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OLDEST;
    use crate::agent::Reply;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut wire = Vec::new();
        write_frame(&mut wire, Kind::Stdout, b"hello").unwrap();
        assert_eq!(wire, b"\x03\x05\0\0\0hello");
        let frame = read_frame(&mut wire.as_slice()).unwrap().unwrap();
        assert_eq!(
            frame,
            Frame {
                kind: Kind::Stdout,
                payload: b"hello".to_vec()
            }
        );
    }

    #[test]
    fn an_end_between_frames_is_none_and_inside_a_frame_an_error() {
        assert!(read_frame(&mut [].as_slice()).unwrap().is_none());
        for cut in 1..8 {
            let wire = b"\x03\x05\0\0\0hello";
            assert!(
                matches!(read_frame(&mut &wire[..cut]), Err(FrameError::Io(_))),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_allocating() {
        let wire = [4, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(
            read_frame(&mut wire.as_slice()),
            Err(FrameError::TooLong(0xffff_ffff))
        ));
    }

    #[test]
    fn only_the_agent_reads_an_opening_that_is_longer_than_a_frame() {
        let request = "x".repeat(MAX_PAYLOAD);
        let mut wire = Vec::new();
        write_opening(&mut wire, &request).unwrap();
        let read = |us, peer| read_opening::<String>(&mut wire.as_slice(), us, peer, "a request");
        assert_eq!(read(Program::Agent, Program::CommandLine).unwrap(), request);
        assert!(matches!(
            read(Program::CommandLine, Program::Agent),
            Err(FrameError::TooLong(_))
        ));
        let too_long = "x".repeat(MAX_REQUEST);
        let result = write_opening(&mut Vec::new(), &too_long);
        assert!(matches!(result, Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_peer_of_another_version_is_understood_as_far_as_its_message_is() {
        let read = |version: u32, message: Option<&[u8]>| {
            let mut wire = envelope::envelope(version).to_vec();
            if let Some(message) = message {
                write_frame(&mut wire, Kind::Message, message).unwrap();
            }
            let us = (Program::CommandLine, Program::Agent);
            read_opening::<Reply>(&mut wire.as_slice(), us.0, us.1, "a reply")
        };
        let started = br#"{"started":{"pid":7,"innerPid":null,"newer":{"a":1}}}"#;
        let expected = Reply::Started {
            pid: 7,
            inner_pid: None,
        };
        for version in [OLDEST, VERSION, VERSION + 1] {
            assert_eq!(read(version, Some(started)).unwrap(), expected);
        }
        let mismatch = |version: u32, message| match read(version, message) {
            Err(FrameError::Version(mismatch)) => mismatch.version == Some(version),
            _ => false,
        };
        assert!(mismatch(OLDEST - 1, Some(started)));
        assert!(mismatch(VERSION + 1, Some(br#"{"danced":{}}"#)));
        // An agent that does not understand the request.
        assert!(mismatch(VERSION + 1, None));
        assert!(!mismatch(VERSION, None));
    }

    #[test]
    fn an_unknown_kind_is_reported() {
        let wire = [9, 0, 0, 0, 0];
        assert!(matches!(
            read_frame(&mut wire.as_slice()),
            Err(FrameError::UnknownKind(9))
        ));
    }
}
