//! A tree that is sent in a session ([`microagent_proto::tree`]).

use std::io::Write;

use microagent_proto::agent::Failure;
use microagent_proto::frame::{FrameError, Kind, write_frame, write_message};
use microagent_proto::tree::{Entry, Part};

use crate::{Sink, Source, TreeError, read};

/// What is different from the files that are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The user and the group of all files.
    pub owner: Option<(u32, u32)>,
    /// The permissions of the top.
    pub mode: Option<u32>,
}

impl Overrides {
    fn apply(self, entry: &Entry) -> Entry {
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        let mode = self.mode.filter(|_| entry.path.is_empty());
        Entry {
            uid,
            gid,
            mode: mode.unwrap_or(entry.mode),
            ..entry.clone()
        }
    }
}

/// Reads the tree of `source` and sends it with its end, apart from `overrides`; content is frames of `content`. If it
/// cannot be read to the end, the peer is told what `failure` makes of the error, which is returned.
///
/// # Errors
/// The session's stream failed.
pub fn send(
    source: Source<'_>,
    overrides: Overrides,
    stream: &mut impl Write,
    content: Kind,
    failure: impl FnOnce(&TreeError) -> Failure,
) -> Result<Result<(), TreeError>, FrameError> {
    let mut sink = Frames {
        stream,
        content,
        overrides,
        failed: None,
    };
    let sent = read(source, &mut sink);
    if let Some(error) = sink.failed {
        return Err(error);
    }
    let end = match &sent {
        Ok(()) => Part::End,
        Err(error) => Part::Failed(failure(error)),
    };
    write_message(stream, &end)?;
    Ok(sent)
}

/// Writes a tree to a session.
struct Frames<'a, W> {
    stream: &'a mut W,
    content: Kind,
    overrides: Overrides,
    /// Why the stream failed.
    failed: Option<FrameError>,
}

impl<W: Write> Frames<'_, W> {
    fn check(&mut self, written: Result<(), FrameError>) -> Result<(), TreeError> {
        written.map_err(|error| {
            self.failed = Some(error);
            TreeError::Limit("the session has ended")
        })
    }
}

impl<W: Write> Sink for Frames<'_, W> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        match write_message(self.stream, &Part::Entry(self.overrides.apply(entry))) {
            // It has more attributes than a frame may have bytes.
            Err(FrameError::TooLong(_)) => Err(TreeError::Limit("it has too long attributes")),
            written => self.check(written),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let written = write_frame(self.stream, self.content, bytes);
        self.check(written)
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        let written = write_message(self.stream, &Part::Hole { length });
        self.check(written)
    }
}
