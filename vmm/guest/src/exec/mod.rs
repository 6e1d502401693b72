//! Runs one command: looks it up, starts it as the image's user, forwards its standard streams and
//! reports how it ended.
//!
//! - [`command`] starts a process for a request, and maps failures to those of a shell (126, 127);
//!   [`refusal`] explains why a program cannot be executed.
//! - [`stdio`] forwards the standard streams until the command has ended, with [`inbox`] and
//!   [`outbox`] for the host's side and [`input`] for the command's.
//! - [`relay`]: another session for a workload whose own was lost.
//! - [`terminal`] makes its terminal, if it has one.
//! - [`leftovers`]: commands without a session, and the pipes of daemons.

mod command;
mod inbox;
mod input;
mod leftovers;
mod outbox;
mod refusal;
mod relay;
mod stdio;
mod terminal;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use microagent_proto::agent::{Exec, Failure, Output, Reply};
use microagent_proto::frame::{FrameError, write_opening};

pub use self::leftovers::Leftovers;
pub use self::relay::Relay;
use crate::cgroup::Cgroups;
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
    /// Where their groups are made, if they have any.
    pub cgroups: Option<&'a Arc<Cgroups>>,
    /// The agent's `/proc`.
    pub proc: &'a OwnedFd,
    /// The kernel's count of processes killed for lack of memory.
    pub oom_kills: &'a OomKills,
    /// Further sessions of the workload.
    pub relay: &'a Relay,
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
    let running = match command::start(request, guest) {
        Ok(running) => running,
        Err(failure) => return Ok(Err(failure)),
    };
    let pid = running.child.pid();
    if request.output == Output::Discard {
        let inner_pid = inner_pid(guest.proc, pid);
        // Nobody need be there any more.
        let _ = write_opening(stream, &Reply::Started { pid, inner_pid });
        return Ok(Ok(Leftovers {
            child: Some((running.child, running.slot)),
            outputs: Vec::new(),
        }));
    }
    let inner_pid = None;
    write_opening(stream, &Reply::Started { pid, inner_pid })?;
    let out_of_memory = || guest.oom_kills.count() > kills_before;
    let relay = (request.keep && running.slot.is_some()).then(|| guest.relay.open());
    stdio::forward(stream, running, relay, out_of_memory).map(Ok)
}

/// The id of a process in its own PID namespace: the last one of `NSpid` (proc(5)).
fn inner_pid(proc: &OwnedFd, pid: u32) -> Option<u32> {
    use rustix::fs::{Mode, OFlags, openat};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let status = openat(proc, format!("{pid}/status"), flags, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(status).read_to_string(&mut text).ok()?;
    let ids = text.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().next_back()?.parse().ok()
}
