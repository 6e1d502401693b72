//! A process that restores the terminal when this one is killed while the terminal is in raw mode.
//!
//! It is this program with [`GUARD_MODE`], in a session of its own: signals to the process group of
//! the terminal do not reach it, and it may change the terminal's mode whoever is in the foreground.
//! Its standard input is the terminal, its standard output a socket whose other end is closed when
//! this process ends, however it does.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::setsid;
use rustix::stdio::stdout;

use crate::terminal::Mode;

/// First argument of the process.
const GUARD_MODE: &str = "--restore-terminal-after-death";

/// The process. Dropping it ends it.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    alive: Option<UnixStream>,
}

impl Guard {
    /// Starts the process; returns when it knows the mode of the terminal on standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> io::Result<Guard> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(GUARD_MODE)
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::null())
            .spawn()?;
        let mut guard = Guard { child, alive: None };
        ours.read_exact(&mut [0])?;
        guard.alive = Some(ours);
        Ok(guard)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.child.wait();
    }
}

/// Is the process, if `words` say so.
pub fn run_guard_mode(words: &[OsString]) -> Option<ExitCode> {
    if words.get(1)? != GUARD_MODE {
        return None;
    }
    Some(match guard() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn guard() -> io::Result<()> {
    let mode = Mode::now()?;
    setsid()?;
    let mut client = UnixStream::from(fcntl_dupfd_cloexec(stdout(), 3)?);
    // What standard output still refers to would keep the socket open.
    rustix::stdio::dup2_stdout(io::stderr())?;
    client.write_all(&[0])?;
    // Nothing is sent.
    let _ = client.read(&mut [0]);
    mode.restore_from_raw();
    Ok(())
}
