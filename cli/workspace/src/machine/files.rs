//! Sessions that read and write the guest's files.
//!
//! What a guest sends is not trusted: a [`Sink`] gets no more entries and bytes than a guest's file
//! system can plausibly have, and checks paths itself.

use std::os::unix::net::UnixStream;

use microagent_proto::agent::{Failure, FailureKind, Reply, Request};
use microagent_proto::error_chain;
use microagent_proto::frame::{Frame, FrameError, Kind, read_frame, write_opening};
use microagent_proto::tree::{Kind as FileKind, Part, ReadTree, WriteTree};
use microagent_tree::{MAX_APPARENT, MAX_FILES, Overrides, Sink, Source, TreeError};

use super::session::{SessionError, first_reply, unexpected_reply};

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
    match first_reply(&mut stream, "the begin of the tree")? {
        Reply::TreeOpened => {}
        Reply::Failed(failure) => return Err(SessionError::Refused(failure).into()),
        _ => return Err(unexpected_reply().into()),
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
            got => {
                let expected = "a part of the tree";
                return Err(FrameError::Unexpected { got, expected }.into());
            }
        }
    }
}

/// Writes the tree of `source`, apart from `overrides`, into the guest. Returns how many files it left out.
///
/// # Errors
/// [`FilesError`]; the guest's files are then as before, unless it was merging a directory.
pub fn write_tree(
    mut stream: UnixStream,
    request: WriteTree,
    source: Source<'_>,
    overrides: Overrides,
) -> Result<u64, FilesError> {
    write_opening(&mut stream, &Request::WriteTree(request))?;
    let failure = |error: &TreeError| Failure {
        kind: FailureKind::BadRequest,
        message: error_chain(error),
    };
    let sent = microagent_tree::send(source, overrides, &mut stream, Kind::Stdin, failure)?;
    let reply = first_reply(&mut stream, "the reply to the tree")?;
    sent?;
    match reply {
        Reply::TreeWritten { skipped } => Ok(skipped),
        Reply::Failed(failure) => Err(SessionError::Refused(failure).into()),
        _ => Err(unexpected_reply().into()),
    }
}
