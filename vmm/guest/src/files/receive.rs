//! From the host into the guest.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use microagent_proto::agent::Reply;
use microagent_proto::frame::{Frame, FrameError, Kind, read_frame, write_opening};
use microagent_proto::tree::{Part, WriteTree};
use microagent_tree::{Delivery, Options, Policy, Sink, Skipped, TreeError};

use super::open::{make_directories, open_in, root};
use super::{namespace_failure, tree_failure};
use crate::namespaces::Namespaces;
use crate::stream::Stream;

/// A guest is all the host's: everything is kept.
const POLICY: Policy = Policy {
    owners: true,
    privileges: true,
};

/// Writes the tree that the host sends. Moves the calling thread to the namespaces of commands.
///
/// # Errors
/// The session's stream failed; the tree is then not delivered.
pub fn receive(
    stream: &mut Stream,
    request: &WriteTree,
    namespaces: &Arc<Namespaces>,
) -> Result<(), FrameError> {
    let written = match namespaces.enter() {
        Ok(()) => write(stream, request),
        Err(error) => {
            drain(stream)?;
            Ok(Err(namespace_failure(&error)))
        }
    };
    let reply = match written? {
        Ok(skipped) => Reply::TreeWritten {
            skipped: skipped.count,
        },
        Err(failure) => Reply::Failed(failure),
    };
    write_opening(stream, &reply)
}

type Written = Result<Skipped, microagent_proto::agent::Failure>;

fn write(stream: &mut Stream, request: &WriteTree) -> Result<Written, FrameError> {
    let path = Path::new(OsStr::from_bytes(&request.path));
    let options = Options {
        name: OsStr::from_bytes(&request.name),
        contents: request.contents,
        keep_directories: request.provision,
        policy: POLICY,
    };
    let open = |path: &Path, flags| -> io::Result<_> { open_in(root()?, path, flags) };
    let made = match request.provision {
        true => make_directories(path),
        false => Ok(()),
    };
    let made = made.map_err(|error| TreeError::io("create", &request.path, error));
    let mut delivery = match made.and_then(|()| Delivery::new(path, &options, open)) {
        Ok(delivery) => delivery,
        Err(error) => {
            drain(stream)?;
            return Ok(Err(tree_failure(&error)));
        }
    };
    loop {
        let taken = match next(stream)? {
            Next::Data(bytes) => delivery.data(&bytes),
            Next::Part(Part::Entry(entry)) => delivery.entry(&entry),
            Next::Part(Part::Hole { length }) => delivery.hole(length),
            Next::Part(Part::End) => break,
            Next::Part(Part::Failed(failure)) => return Ok(Err(failure)),
        };
        if let Err(error) = taken {
            drain(stream)?;
            return Ok(Err(tree_failure(&error)));
        }
    }
    Ok(delivery
        .finish()
        .map_err(|error: TreeError| tree_failure(&error)))
}

enum Next {
    Data(Vec<u8>),
    Part(Part),
}

fn next(stream: &mut Stream) -> Result<Next, FrameError> {
    const WHAT: &str = "the end of the tree";
    let Frame { kind, payload } = read_frame(stream)?.ok_or(FrameError::Closed(WHAT))?;
    match kind {
        Kind::Stdin => Ok(Next::Data(payload)),
        Kind::Message => Ok(Next::Part(serde_json::from_slice(&payload)?)),
        got => Err(FrameError::Unexpected {
            got,
            expected: WHAT,
        }),
    }
}

/// Reads the rest of the tree: a host that is still writing reads no reply.
fn drain(stream: &mut Stream) -> Result<(), FrameError> {
    loop {
        if let Next::Part(Part::End | Part::Failed(_)) = next(stream)? {
            return Ok(());
        }
    }
}
