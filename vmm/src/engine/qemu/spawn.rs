//! The QEMU process: what it inherits, how it dies with us, what it said.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts `program` in a process group of its own, with nothing on standard input and output, a
/// pipe on standard error, and `inherited` under the numbers they have here. All other descriptors
/// of ours are close-on-exec and stay ours.
///
/// The kernel kills it when **the calling thread** ends, so that no way of dying leaves it behind.
/// The caller therefore is a thread that lives as long as the VM.
///
/// # Errors
/// Those of `fork` and `exec`.
pub fn spawn(
    program: &Path,
    arguments: Vec<OsString>,
    inherited: Vec<OwnedFd>,
) -> io::Result<Child> {
    let parent = std::process::id();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let prepare = move || {
        for fd in &inherited {
            // SAFETY: needed because a safe wrapper would act on the parent's table too early,
            // where another thread's child could inherit it. It takes numbers; the descriptor is
            // open, for `inherited` lives until the child has been started.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        // SAFETY: needed because PR_SET_PDEATHSIG acts on the calling thread only, here the
        // child's. It takes numbers.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: needed to see a parent that died before the line above. It takes nothing.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: needed because only the child can do what `prepare` does. It runs between fork and
    // exec, where only async-signal-safe functions may be called: fcntl, prctl and getppid are,
    // and nothing allocates (errors carry a number only).
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
