//! The first data of a TCP connection, which decide about it.
//!
//! The bytes that are inspected must be the bytes that the server reads, although a guest can make
//! segments that the server ignores (a wrong checksum, an old timestamp) and send others in their
//! place. Therefore
//!
//! - data are accepted only after the server has accepted the SYN that the filter knows: an earlier
//!   one with another number would shift everything;
//! - data are accepted in order only, and kept from the network until the decision;
//! - what was inspected may be retransmitted with the same content only, until the server has
//!   acknowledged it: what it acknowledges it never reads again;
//! - nothing before the first byte passes at all.

use std::time::Instant;

use crate::packet::Segment;
use crate::reason::Reason;
use crate::tls::MAX_HELLO;

/// The maximum number of frames that are kept for a connection.
const MAX_FRAMES: usize = 64;
/// The maximum length of all of them: the data, and headers.
const MAX_HELD: usize = MAX_HELLO + MAX_FRAMES * 128;
/// How far after the first byte an unacknowledged segment may be: the maximum TCP window.
const MAX_WINDOW: u32 = 1 << 30;

/// A frame that waits for the decision about its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFrame {
    /// What the caller gave with it.
    pub header: Vec<u8>,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// A connection about which its first data decide.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// The sequence number of the first byte.
    start: u32,
    /// When the connection was opened: pins that end later are valid for it.
    pub(crate) opened: Instant,
    /// What holds if the data tell no name.
    pub(crate) without_name: Result<(), Reason>,
    /// The server has answered the SYN.
    is_accepted: bool,
    data: Vec<u8>,
    held: Vec<HeldFrame>,
    held_len: usize,
}

/// What a segment adds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// New data.
    Data,
    /// Nothing: all of it is known.
    Known,
    /// It cannot be used, and may be sent again.
    OutOfOrder,
    /// It contradicts what is known.
    Contradiction,
}

impl Inspection {
    pub(crate) fn new(isn: u32, opened: Instant, without_name: Result<(), Reason>) -> Self {
        Self {
            start: isn.wrapping_add(1),
            opened,
            without_name,
            is_accepted: false,
            data: Vec::new(),
            held: Vec::new(),
            held_len: 0,
        }
    }

    pub(crate) fn begins_with(&self, isn: u32) -> bool {
        self.start == isn.wrapping_add(1)
    }

    /// Whether a server's SYN that acknowledges everything before `number` is the answer to ours.
    pub(crate) fn accepts(&self, number: u32) -> bool {
        self.start == number
    }

    /// The server has answered.
    pub(crate) fn accept(&mut self) {
        self.is_accepted = true;
    }

    pub(crate) fn is_accepted(&self) -> bool {
        self.is_accepted
    }

    /// The data so far.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn has_data(&self) -> bool {
        !self.data.is_empty()
    }

    /// Appends the data of a segment, up to [`MAX_HELLO`] in all.
    pub(crate) fn add(&mut self, segment: &Segment<'_>) -> Added {
        let offset = segment.sequence.wrapping_sub(self.start) as usize;
        let Some((same, known)) = compare(&self.data, offset, segment.data) else {
            return Added::OutOfOrder;
        };
        if !same {
            return Added::Contradiction;
        }
        if known == segment.data_len {
            return Added::Known;
        }
        let new = segment.data.get(known..).unwrap_or(&[]);
        let room = MAX_HELLO.saturating_sub(self.data.len());
        self.data.extend_from_slice(new.get(..room).unwrap_or(new));
        Added::Data
    }

    /// Keeps a frame, if there is room for it.
    pub(crate) fn hold(&mut self, frame: HeldFrame) -> Result<(), Reason> {
        self.held_len += frame.bytes.len();
        if self.held.len() >= MAX_FRAMES || self.held_len > MAX_HELD {
            return Err(Reason::HoldLimit);
        }
        self.held.push(frame);
        Ok(())
    }

    /// The frames that are kept, and what to watch for: the first `inspected` bytes.
    pub(crate) fn allow(mut self, inspected: usize) -> (Vec<HeldFrame>, Watch) {
        self.data.truncate(inspected);
        self.data.shrink_to_fit();
        let watch = Watch {
            start: self.start,
            length: self.data.len(),
            data: Some(self.data),
        };
        (self.held, watch)
    }
}

/// The first data of a connection that was allowed because of them.
#[derive(Debug)]
pub(crate) struct Watch {
    start: u32,
    length: usize,
    /// `None` when they were dropped for lack of room. Then they cannot be retransmitted.
    data: Option<Vec<u8>>,
}

impl Watch {
    pub(crate) fn begins_with(&self, isn: u32) -> bool {
        self.start == isn.wrapping_add(1)
    }

    /// Whether more of the segment's data must be at hand for [`Watch::check`].
    pub(crate) fn needs_data(&self, segment: &Segment<'_>) -> bool {
        (segment.sequence.wrapping_sub(self.start) as usize) < self.length
            && segment.data.len() < segment.data_len
    }

    /// Whether the segment may pass.
    pub(crate) fn check(&self, segment: &Segment<'_>) -> Result<(), Reason> {
        if segment.data_len == 0 {
            return Ok(());
        }
        let offset = segment.sequence.wrapping_sub(self.start);
        if offset >= MAX_WINDOW {
            return Err(Reason::Sequence);
        }
        let offset = offset as usize;
        if offset >= self.length {
            return Ok(());
        }
        let data = self.data.as_deref().ok_or(Reason::Sequence)?;
        match compare(data, offset, segment.data) {
            // Frames are given with enough of their data to compare all of it.
            Some((true, _)) if segment.data.len() == segment.data_len => Ok(()),
            Some((true, known)) if offset + known == self.length => Ok(()),
            _ => Err(Reason::Sequence),
        }
    }

    /// Whether everything that was inspected lies before `number`.
    pub(crate) fn is_acknowledged(&self, number: u32) -> bool {
        let acknowledged = number.wrapping_sub(self.start);
        acknowledged as usize >= self.length && acknowledged < MAX_WINDOW
    }

    pub(crate) fn keeps_data(&self) -> bool {
        self.data.is_some()
    }

    pub(crate) fn drop_data(&mut self) {
        self.data = None;
    }
}

/// Compares `data`, which begin at `offset`, with what is known, as far as they overlap. Returns
/// whether they are equal there and how many bytes overlap; `None` if there is a gap before them.
fn compare(known: &[u8], offset: usize, data: &[u8]) -> Option<(bool, usize)> {
    let known = known.get(offset..)?;
    let length = known.len().min(data.len());
    Some((known.get(..length) == data.get(..length), length))
}
