//! From the guest to the host.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use microagent_proto::agent::{Failure, FailureKind, Reply};
use microagent_proto::frame::{FrameError, Kind, write_frame, write_message, write_opening};
use microagent_proto::tree::{Entry, Part, ReadTree};
use microagent_tree::{Shown, Sink, Source, TreeError, read};

use super::open::{locate, root};
use super::{namespace_failure, tree_failure};
use crate::namespaces::Namespaces;
use crate::stream::Stream;

/// Sends the tree that the host requested. Moves the calling thread to the namespaces of commands.
///
/// # Errors
/// The session's stream failed.
pub fn send(
    stream: &mut Stream,
    request: &ReadTree,
    namespaces: &Arc<Namespaces>,
) -> Result<(), FrameError> {
    let path = Path::new(OsStr::from_bytes(&request.path));
    let refuse =
        |stream: &mut Stream, failure: Failure| write_opening(stream, &Reply::Failed(failure));
    if let Err(error) = namespaces.enter() {
        return refuse(stream, namespace_failure(&error));
    }
    let located = root().and_then(|root| locate(root, path, request.follow));
    let (directory, name) = match located {
        Ok(located) => located,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let failure = Failure {
                kind: FailureKind::NotFound,
                message: format!(
                    "there is no {} in the guest",
                    Shown::from(&request.path[..])
                ),
            };
            return refuse(stream, failure);
        }
        Err(error) => {
            let error = TreeError::io("read", &request.path, error);
            return refuse(stream, tree_failure(&error));
        }
    };
    write_opening(stream, &Reply::TreeOpened)?;
    let mut sink = Frames {
        stream,
        failed: None,
    };
    let source = Source {
        directory: &directory,
        name: &name,
        cross_mounts: false,
    };
    let sent = read(source, &mut sink);
    if let Some(error) = sink.failed {
        return Err(error);
    }
    let end = match sent {
        Ok(()) => Part::End,
        Err(error) => Part::Failed(tree_failure(&error)),
    };
    write_message(stream, &end)
}

/// Writes a tree to a session.
struct Frames<'a> {
    stream: &'a mut Stream,
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
        let written = write_message(self.stream, &Part::Entry(entry.clone()));
        match written {
            // It has more attributes than a frame may have bytes.
            Err(FrameError::TooLong(_)) => Err(TreeError::Limit("it has too long attributes")),
            written => self.check(written),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let written = write_frame(self.stream, Kind::Stdout, bytes);
        self.check(written)
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        let written = write_message(self.stream, &Part::Hole { length });
        self.check(written)
    }
}
