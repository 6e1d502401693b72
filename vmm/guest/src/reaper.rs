//! The first process of the base namespace: it inherits orphans and reaps them.
//!
//! It is this program with the argument [`ARGUMENT`], in a new process, so that it shares neither
//! memory nor descriptors with the agent. It ends when it has been told to (SIGTERM) and no orphan
//! is left. Commands that joined the namespace are children of the agent; they are killed then.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitOptions, pidfd_open, wait};

use crate::console::log;
use crate::spawn::{self, CStringArray, Executable, Program, SpawnError};
use crate::user::Identity;

/// The argument that starts the reaper.
pub const ARGUMENT: &str = "reap";

/// The name that commands see.
const NAME: &str = "init";

/// Starts the reaper as the first process of this thread's new PID namespace. Returns its pidfd.
pub fn start(program: &OwnedFd) -> Result<OwnedFd, SpawnError> {
    let system = |error: Errno| SpawnError::System(error.into());
    let words = [NAME.to_owned(), ARGUMENT.to_owned()];
    let nul = |_| SpawnError::System(io::ErrorKind::InvalidInput.into());
    let null = || spawn::null().map_err(SpawnError::System);
    let stderr = rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3).map_err(system)?;
    let program = Program {
        file: Executable::File(program.try_clone().map_err(SpawnError::System)?),
        argv: CStringArray::new(&words).map_err(nul)?,
        envp: CStringArray::new(&[]).map_err(nul)?,
        stdio: [null()?, null()?, stderr],
        cwd: rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(system)?,
        user: (&Identity::root()).into(),
        mount_proc: true,
        terminal: false,
        // It is small, and when it ends, so do all processes of the namespace.
        oom_victim: None,
    };
    // In the agent's group.
    let pid = spawn::spawn(&program, None)?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(system)
}

/// The reaper.
pub fn run() -> ExitCode {
    match reap() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("cannot reap processes: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn reap() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    // Blocked, so that they are kept for `wait`. The kernel discards other signals that the first
    // process of a namespace does not handle.
    signals.thread_block()?;
    // The kernel names a program that is executed as an open file after the descriptor's number.
    rustix::thread::set_name(c"init")?;
    let mut told = false;
    loop {
        match reap_the_dead() {
            Errno::CHILD if told => return Ok(()),
            _ => told |= signals.wait()? == Signal::SIGTERM,
        }
    }
}

/// Returns why there is nothing more to reap.
fn reap_the_dead() -> Errno {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Errno::AGAIN,
            Err(error) => return error,
        }
    }
}
