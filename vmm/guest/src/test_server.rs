//! For tests: serves sessions on this machine, as in a configured VM whose root is a directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::net::sockopt::set_socket_send_buffer_size;

use crate::agent::{Agent, State};
use crate::configure::Configured;
use crate::console::log;
use crate::oom::OomKills;
use crate::root;
use crate::stream::Stream;

/// Serves the sessions that arrive at the listening socket on standard input.
pub fn run(root: &Path) -> ExitCode {
    match prepare(root) {
        Ok((agent, listener)) => agent.accept_forever(|| {
            let (stream, _) = listener.accept()?;
            let stream = OwnedFd::from(stream);
            // The minimum that the kernel allows, so that backpressure occurs early.
            set_socket_send_buffer_size(&stream, 1)?;
            Ok(Some(Stream::from(stream)))
        }),
        Err(error) => {
            log(&format!("cannot serve sessions: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare(directory: &Path) -> io::Result<(Arc<Agent>, UnixListener)> {
    let program = File::open("/proc/self/exe")?;
    let proc = File::open("/proc")?;
    let oom_kills = OomKills::open()?;
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    // A mount namespace like a guest's: nothing reaches the machine's mounts, and the root is the
    // root of a mount, so that commands that enter a namespace find it there.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount_bind_recursive(directory, directory)?;
    root::move_to_root(directory)?;
    if Path::new("/dev/pts").exists() {
        root::mount_terminals().map_err(io::Error::other)?;
    }
    let agent = Agent::new(
        program.into(),
        proc.into(),
        oom_kills,
        State::Configured(Configured::default().into()),
    );
    Ok((Arc::new(agent), listener.into()))
}
