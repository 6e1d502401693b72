//! One command: looked up, started as the image's user, its streams carried, its end reported.
//!
//! - [`command`] turns a request into a process, and failures into the kinds a shell knows (126,
//!   127).
//! - [`stdio`] carries the streams until the command has ended.

mod command;
mod inbox;
mod stdio;

use std::sync::Arc;

use microagent_proto::agent::{Exec, Failure, Reply};
use microagent_proto::frame::{FrameError, write_message};

use crate::children::Children;
use crate::stream::Stream;

/// Runs the command of one session to its end. A failure is one of the request, before anything
/// was started or answered.
///
/// # Errors
/// The stream broke; the command's process group has been killed.
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
    write_message(stream, &Reply::Started { pid })?;
    let exited = stdio::forward(stream, running)?;
    write_message(stream, &Reply::Exited(exited))?;
    Ok(Ok(()))
}
