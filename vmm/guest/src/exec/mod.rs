//! Runs one command: looks it up, starts it as the image's user, forwards its standard streams and
//! reports how it ended.
//!
//! - [`command`] starts a process for a request, and maps failures to those of a shell (126, 127).
//! - [`stdio`] forwards the standard streams until the command has ended.

mod command;
mod inbox;
mod stdio;

use std::sync::Arc;

use microagent_proto::agent::{Exec, Failure, Reply};
use microagent_proto::frame::{FrameError, write_message, write_opening};

use crate::children::Children;
use crate::stream::Stream;

/// Runs the command of one session to its end. Returns a [`Failure`] if the command could not be
/// started; no reply has been sent then.
///
/// # Errors
/// The session's stream failed; the command's process group has been killed.
pub fn run(
    stream: &mut Stream,
    request: &Exec,
    children: &Arc<Children>,
) -> Result<Result<(), Failure>, FrameError> {
    let running = match command::start(request, children) {
        Ok(running) => running,
        Err(failure) => return Ok(Err(failure)),
    };
    let pid = running.child.pid();
    write_opening(stream, &Reply::Started { pid })?;
    let exited = stdio::forward(stream, running)?;
    write_message(stream, &Reply::Exited(exited))?;
    Ok(Ok(()))
}
