//! From the guest to the host.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use microagent_proto::agent::{Failure, FailureKind, Reply};
use microagent_proto::frame::{FrameError, Kind, write_opening};
use microagent_proto::tree::ReadTree;
use microagent_tree::{Overrides, Shown, Source, TreeError};

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
    let source = Source {
        directory: &directory,
        name: &name,
        cross_mounts: false,
    };
    microagent_tree::send(
        source,
        Overrides::default(),
        stream,
        Kind::Stdout,
        tree_failure,
    )
    .map(drop)
}
