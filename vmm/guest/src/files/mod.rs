//! Reads and writes trees of files for the host, as the guest's commands see them.
//!
//! Paths are resolved with the root of these commands as `/` ([`open`]): neither a symbolic link nor
//! `..` leads elsewhere.

pub mod open;
mod receive;
mod send;

use microagent_proto::agent::{Failure, FailureKind};
use microagent_proto::error_chain;
use microagent_tree::TreeError;
use rustix::io::Errno;

pub use receive::receive;
pub use send::send;

use crate::namespaces::NamespaceError;

/// What the host is told of a tree that cannot be read or written.
fn tree_failure(error: &TreeError) -> Failure {
    let kind = match error {
        TreeError::Io { source, .. } if source.raw_os_error() == raw(Errno::NOENT) => {
            FailureKind::NotFound
        }
        TreeError::Invalid { .. } | TreeError::Conflict { .. } => FailureKind::BadRequest,
        _ => FailureKind::System,
    };
    Failure {
        kind,
        message: error_chain(error),
    }
}

fn raw(errno: Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

fn namespace_failure(error: &NamespaceError) -> Failure {
    Failure {
        kind: FailureKind::System,
        message: error_chain(error),
    }
}
