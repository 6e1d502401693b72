//! Frames of an agent session.
//!
//! Layout: one byte kind, four bytes little-endian payload length, payload. A payload is at most
//! [`MAX_PAYLOAD`] bytes; a longer one ends the session. Frames of kind [`Kind::Message`] hold one
//! JSON document of [`crate::agent`]; all others are raw bytes.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest payload of a frame, in bytes. Senders of output keep to [`DATA_CHUNK`].
pub const MAX_PAYLOAD: usize = 1 << 20;

/// How much output or input one data frame carries at the most, in bytes. Large enough that the
/// five header bytes and the wake-up cost nothing, small enough to interleave two streams.
pub const DATA_CHUNK: usize = 64 << 10;

/// The length of a frame's header, in bytes.
pub const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A JSON document: a request, an answer or an event.
    Message = 1,
    /// Bytes for the command's standard input. An empty one closes it.
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

/// One frame, received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// Its bytes, at most [`MAX_PAYLOAD`].
    pub payload: Vec<u8>,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed, or ended inside a frame.
    #[error("the stream to the peer failed")]
    Io(#[from] io::Error),
    /// The peer sent a kind this version does not know.
    #[error("the peer sent a frame of unknown kind {0}")]
    UnknownKind(u8),
    /// The frame is longer than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes is longer than the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    /// A message is not the JSON that was expected.
    #[error("the peer sent a message that cannot be understood")]
    BadMessage(#[from] serde_json::Error),
    /// A data frame came where a message was expected, or the reverse.
    #[error("the peer sent {got:?} where {expected} was expected")]
    Unexpected {
        /// The kind that came.
        got: Kind,
        /// What should have come.
        expected: &'static str,
    },
    /// The stream ended where a frame was expected.
    #[error("the peer closed the stream where {0} was expected")]
    Closed(&'static str),
}

/// Writes one frame with a single `write_all`, so that concurrent writers that share a lock never
/// interleave header and payload.
///
/// # Errors
/// [`FrameError::TooLong`] above [`MAX_PAYLOAD`]; [`FrameError::Io`] from the stream.
pub fn write_frame(stream: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::TooLong(payload.len()));
    }
    let mut buffer = Vec::with_capacity(HEADER + payload.len());
    buffer.push(kind as u8);
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(payload);
    stream.write_all(&buffer)?;
    Ok(())
}

/// Writes `message` as one [`Kind::Message`] frame.
///
/// # Errors
/// As [`write_frame`].
pub fn write_message<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    write_frame(stream, Kind::Message, &serde_json::to_vec(message)?)
}

/// Reads one frame; `None` where the stream ends between frames.
///
/// # Errors
/// [`FrameError::Io`] from the stream, also when it ends inside a frame; [`FrameError::TooLong`]
/// and [`FrameError::UnknownKind`] for a peer that breaks the rules.
pub fn read_frame(stream: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    let mut header = [0u8; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match stream.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let kind = Kind::from_byte(header[0]).ok_or(FrameError::UnknownKind(header[0]))?;
    let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Reads one frame and parses it as a message; `what` names it in errors.
///
/// # Errors
/// As [`read_frame`], and [`FrameError::Closed`], [`FrameError::Unexpected`] or
/// [`FrameError::BadMessage`] when anything but such a message comes.
pub fn read_message<T: DeserializeOwned>(
    stream: &mut impl Read,
    what: &'static str,
) -> Result<T, FrameError> {
    match read_frame(stream)? {
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

    #[test]
    fn a_frame_survives_the_wire() {
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
    fn the_end_between_frames_is_none_and_inside_one_an_error() {
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
    fn an_unknown_kind_is_named() {
        let wire = [9, 0, 0, 0, 0];
        assert!(matches!(
            read_frame(&mut wire.as_slice()),
            Err(FrameError::UnknownKind(9))
        ));
    }
}
