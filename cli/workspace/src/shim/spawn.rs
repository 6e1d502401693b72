//! Starting a shim, and its first steps.
//!
//! Its standard input is a stream socket: the [`ShimConfig`] comes in, the [`Started`] goes out. Its
//! standard output is the lock of the workspace, so that the lock is handed over without a gap.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Mode;

use super::config::{ShimConfig, Started};
use crate::lock::Lock;

/// Why a shim could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// A system call failed.
    #[error("cannot start the supervisor of the workspace")]
    Io(#[from] io::Error),
    /// It ended without a report.
    #[error("the supervisor of the workspace died before it was ready")]
    Died,
    /// It reports that the workspace could not be started.
    #[error("{message}")]
    Failed {
        /// The kind of failure, as in documents.
        kind: String,
        /// One line: what failed and why.
        message: String,
        /// One line: the way out, if there is one.
        remediation: Option<String>,
    },
}

/// Starts `program` with the argument `mode` as the shim of `config`, hands it `lock`, and waits
/// until the workspace is ready.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(
    program: &Path,
    mode: &str,
    config: &ShimConfig,
    lock: Lock,
) -> Result<(), SpawnError> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let text = serde_json::to_vec(config).map_err(io::Error::from)?;
    let mut child = Command::new(program)
        .arg(mode)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(lock.file().try_clone()?))
        .stderr(Stdio::null())
        .spawn()?;
    // From now on the shim holds it alone.
    drop(lock);
    // This one starts the shim and ends, so that the shim is no child of this process: it outlives
    // it, is not killed with it, and is reaped by process 1.
    child.wait()?;
    ours.write_all(&text)?;
    ours.shutdown(Shutdown::Write)?;
    let mut report = Vec::new();
    ours.read_to_end(&mut report)?;
    match serde_json::from_slice(&report) {
        Ok(Started::Ready) => Ok(()),
        Ok(Started::Failed {
            kind,
            message,
            remediation,
        }) => Err(SpawnError::Failed {
            kind,
            message,
            remediation,
        }),
        Err(_) => Err(SpawnError::Died),
    }
}

/// The whole process that [`spawn`] starts: it starts `program` with the argument `mode`, which must
/// call [`main`], with the same standard input and output, and without any other descriptor that it
/// inherited from the caller's caller.
///
/// # Errors
/// When the process cannot be started.
pub fn detach(program: &Path, mode: &str) -> io::Result<()> {
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    Command::new(program).arg(mode).spawn().map(drop)
}

/// The whole process of a shim.
///
/// # Errors
/// When it was started by something else than [`detach`].
pub fn main() -> io::Result<()> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
    let lock = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    let mut stream = UnixStream::from(stdin);
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    let config: ShimConfig = serde_json::from_slice(&text)?;
    super::run(config, Lock::inherited(lock), |started| {
        // Whoever started it may be gone.
        if let Ok(report) = serde_json::to_vec(&started) {
            let _ = stream.write_all(&report);
        }
        let _ = stream.shutdown(Shutdown::Both);
    });
    Ok(())
}
