//! What the agent is asked for before its VM is saved, and after it was restored.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use microagent_proto::agent::{Reply, Request, Resume};
use microagent_proto::frame::{FrameError, read_frame, write_opening};

use super::session::{SessionError, first_reply, unexpected_reply};

/// Lets a VM that is about to be saved free the memory that it does not need, and returns when the agent has
/// closed the session.
///
/// # Errors
/// [`SessionError`].
pub fn settle(mut stream: UnixStream) -> Result<(), SessionError> {
    ask(&mut stream, None, &Request::Settle, &Reply::Settled)?;
    match read_frame(&mut stream) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(unexpected_reply()),
        Err(error) => Err(error.into()),
    }
}

/// Stops all processes of a guest that is about to be saved, within `limit`.
///
/// # Errors
/// [`SessionError`].
pub fn freeze(mut stream: UnixStream, limit: Duration) -> Result<(), SessionError> {
    ask(&mut stream, Some(limit), &Request::Freeze, &Reply::Frozen)
}

/// Lets them run again, within `limit`.
///
/// # Errors
/// [`SessionError`].
pub fn thaw(mut stream: UnixStream, limit: Duration) -> Result<(), SessionError> {
    ask(&mut stream, Some(limit), &Request::Thaw, &Reply::Thawed)
}

/// Gives a configured VM that was restored its identity, within `limit`; its processes run again then.
///
/// # Errors
/// [`SessionError`].
pub fn resume(
    mut stream: UnixStream,
    request: Resume,
    limit: Duration,
) -> Result<(), SessionError> {
    ask(
        &mut stream,
        Some(limit),
        &Request::Resume(request),
        &Reply::Resumed,
    )
}

/// Sends a request whose only reply is `expected`, or a failure, with a time limit for it.
fn ask(
    stream: &mut UnixStream,
    limit: Option<Duration>,
    request: &Request,
    expected: &Reply,
) -> Result<(), SessionError> {
    stream.set_read_timeout(limit).map_err(FrameError::Io)?;
    write_opening(stream, request)?;
    match first_reply(stream, "the reply to a request about a saved VM")? {
        Reply::Failed(failure) => Err(SessionError::Refused(failure)),
        reply if reply == *expected => Ok(()),
        _ => Err(unexpected_reply()),
    }
}
