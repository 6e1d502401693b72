//! The end of the process when its caller closes the control socket.
//!
//! Any other thread may be blocked then: in a read from a disk that hangs, or in a write of the
//! guest's console to a standard error that nobody reads. So a thread that does nothing else waits
//! for the end of the socket.

use std::io;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::Control;

/// Starts the thread that kills this process when the peer of `control` closes its end. QEMU is
/// killed with it, because it dies with the thread that started it.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn exit_with(control: Control) -> io::Result<()> {
    thread::Builder::new()
        .name("hangup".into())
        .stack_size(64 << 10)
        .spawn(move || wait(&control))
        .map(drop)
}

fn wait(control: &Control) {
    let socket = control.as_fd();
    // Without requested events, poll(2) reports only the hangup.
    let mut fds = [PollFd::new(&socket, PollFlags::empty())];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            // Out of memory: the main thread waits for the end of the socket, too.
            Err(_) => return,
        }
    }
    // A signal, because exit(3) waits for locks that a blocked thread may hold. The caller is gone,
    // so nobody reads the exit status.
    let _ = kill_process(getpid(), Signal::KILL);
}
