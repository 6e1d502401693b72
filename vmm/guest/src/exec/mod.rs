//! Runs one command: looks it up, starts it as the image's user, forwards its standard streams and
//! reports how it ended.
//!
//! - [`command`] starts a process for a request, and maps failures to those of a shell (126, 127);
//!   [`refusal`] explains why a program cannot be executed.
//! - [`stdio`] forwards the standard streams until the command has ended, with [`inbox`] and
//!   [`outbox`] for the host's side and [`input`] for the command's.
//! - [`leftovers`] keeps the pipes of daemons open.

mod command;
mod inbox;
mod input;
mod leftovers;
mod outbox;
mod refusal;
mod stdio;

use std::sync::Arc;

use microagent_proto::agent::{Exec, Failure, Reply};
use microagent_proto::frame::{FrameError, write_opening};

pub use self::leftovers::Leftovers;
use crate::children::Children;
use crate::namespaces::Namespaces;
use crate::oom::OomKills;
use crate::stream::Stream;

/// What all commands share.
#[derive(Debug)]
pub struct Guest<'a> {
    /// All started processes.
    pub children: &'a Arc<Children>,
    /// Where commands run.
    pub namespaces: &'a Arc<Namespaces>,
    /// The kernel's count of processes killed for lack of memory.
    pub oom_kills: &'a OomKills,
}

/// Runs the command of one session to its end. Returns a [`Failure`] if the command could not be
/// started; no reply has been sent then. Moves the calling thread to the command's namespaces.
///
/// # Errors
/// The session's stream failed; the command has been killed.
pub fn run(
    stream: &mut Stream,
    request: &Exec,
    guest: &Guest<'_>,
) -> Result<Result<Leftovers, Failure>, FrameError> {
    let kills_before = guest.oom_kills.count();
    let running = match command::start(request, guest.children, guest.namespaces) {
        Ok(running) => running,
        Err(failure) => return Ok(Err(failure)),
    };
    let pid = running.child.pid();
    write_opening(stream, &Reply::Started { pid })?;
    let out_of_memory = || guest.oom_kills.count() > kills_before;
    stdio::forward(stream, running, out_of_memory).map(Ok)
}
