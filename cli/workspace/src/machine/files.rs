//! Sessions that read and write the guest's files.
//!
//! What a guest sends is not trusted: a [`Sink`] gets no more entries and bytes than a guest's file
//! system can plausibly have, and checks paths itself.

use std::os::unix::net::UnixStream;

use microagent_proto::agent::{Failure, FailureKind, Reply, Request};
use microagent_proto::envelope::Program;
use microagent_proto::error_chain;
use microagent_proto::frame::{
    Frame, FrameError, Kind, read_frame, read_opening, write_frame, write_message, write_opening,
};
use microagent_proto::tree::{Entry, Kind as FileKind, Part, ReadTree, WriteTree};
use microagent_tree::{Sink, Source, TreeError, read};

use super::session::SessionError;

/// How many files a guest may send.
const MAX_FILES: u64 = 1 << 22;

/// The apparent size of all files that a guest may send, with their holes, in bytes.
const MAX_APPARENT: u64 = 1 << 40;

/// Files could not be copied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The agent refused, or the session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The host's side failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl From<FrameError> for FilesError {
    fn from(error: FrameError) -> FilesError {
        FilesError::Session(error.into())
    }
}

/// Reads a tree of the guest into `sink`.
///
/// # Errors
/// [`FilesError`].
pub fn read_tree(
    mut stream: UnixStream,
    request: ReadTree,
    sink: &mut dyn Sink,
) -> Result<(), FilesError> {
    write_opening(&mut stream, &Request::ReadTree(request))?;
    let us = (Program::CommandLine, Program::Agent);
    match read_opening(&mut stream, us.0, us.1, "the begin of the tree")? {
        Reply::TreeOpened => {}
        Reply::Failed(failure) => return Err(SessionError::Refused(failure).into()),
        _ => return Err(unexpected(Kind::Message)),
    }
    let (mut files, mut apparent) = (0, 0_u64);
    loop {
        let frame = read_frame(&mut stream)?;
        let Frame { kind, payload } = frame.ok_or(FrameError::Closed("the end of the tree"))?;
        match kind {
            Kind::Stdout => sink.data(&payload)?,
            Kind::Message => match serde_json::from_slice(&payload).map_err(FrameError::from)? {
                Part::Entry(entry) => {
                    files += 1;
                    if let FileKind::File { size } = entry.kind {
                        apparent = apparent.saturating_add(size);
                    }
                    if files > MAX_FILES || apparent > MAX_APPARENT {
                        return Err(TreeError::Limit("it has too many or too large files").into());
                    }
                    sink.entry(&entry)?;
                }
                Part::Hole { length } => sink.hole(length)?,
                Part::End => return Ok(()),
                Part::Failed(failure) => return Err(SessionError::Refused(failure).into()),
            },
            other => return Err(unexpected(other)),
        }
    }
}

/// Writes the tree of `source` into the guest. Returns how many files it left out.
///
/// # Errors
/// [`FilesError`]; the guest's files are then as before, unless it was merging a directory.
pub fn write_tree(
    mut stream: UnixStream,
    request: WriteTree,
    source: Source<'_>,
) -> Result<u64, FilesError> {
    write_opening(&mut stream, &Request::WriteTree(request))?;
    let mut sink = Frames {
        stream: &mut stream,
        failed: None,
    };
    let sent = read(source, &mut sink);
    if let Some(error) = sink.failed {
        return Err(error.into());
    }
    let end = match &sent {
        Ok(()) => Part::End,
        Err(error) => Part::Failed(Failure {
            kind: FailureKind::BadRequest,
            message: error_chain(error),
        }),
    };
    write_message(&mut stream, &end)?;
    let us = (Program::CommandLine, Program::Agent);
    let reply = read_opening(&mut stream, us.0, us.1, "the reply to the tree")?;
    sent?;
    match reply {
        Reply::TreeWritten { skipped } => Ok(skipped),
        Reply::Failed(failure) => Err(SessionError::Refused(failure).into()),
        _ => Err(unexpected(Kind::Message)),
    }
}

fn unexpected(got: Kind) -> FilesError {
    let expected = "a part of the tree";
    FrameError::Unexpected { got, expected }.into()
}

/// Writes a tree to a session.
struct Frames<'a> {
    stream: &'a mut UnixStream,
    /// Why the stream failed.
    failed: Option<FrameError>,
}

impl Frames<'_> {
    fn check(&mut self, written: Result<(), FrameError>) -> Result<(), TreeError> {
        written.map_err(|error| {
            self.failed = Some(error);
            TreeError::Limit("the session has ended")
        })
    }
}

impl Sink for Frames<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        match write_message(self.stream, &Part::Entry(entry.clone())) {
            // It has more attributes than a frame may have bytes.
            Err(FrameError::TooLong(_)) => Err(TreeError::Limit("it has too long attributes")),
            written => self.check(written),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let written = write_frame(self.stream, Kind::Stdin, bytes);
        self.check(written)
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        let written = write_message(self.stream, &Part::Hole { length });
        self.check(written)
    }
}
