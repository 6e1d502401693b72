//! Starts the QEMU process with inherited descriptors, and ties its lifetime to the caller's.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts `program` in a new process group, with `/dev/null` as standard input and output and a
/// pipe as standard error. The descriptors `inherited` keep their numbers. All other descriptors of
/// this process are close-on-exec.
///
/// The kernel kills the program when **the calling thread** ends, however it ends, so the program
/// never outlives it. The calling thread must therefore live as long as the VM.
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
            // SAFETY: needed because clearing the flag in the parent would let children of other
            // threads inherit the descriptor. The call takes integers. The descriptor is open,
            // because `inherited` lives until the child has been started.
            check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) })?;
        }
        // SAFETY: needed because PR_SET_PDEATHSIG applies to the calling process, which must be the
        // child. The call takes integers.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // SAFETY: needed to detect a parent that exited before the call above. Takes no arguments.
        if unsafe { libc::getppid() } as u32 != parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: needed because `prepare` must run in the child. It runs between fork and exec, where
    // only async-signal-safe functions are allowed: fcntl, prctl and getppid are, and nothing
    // allocates (the errors hold a number only).
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
