//! What is left of a session that has ended: a command that goes on without it, and output pipes
//! that daemons may still write to.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};

use crate::children::ChildHandle;
use crate::namespaces::WorkloadSlot;

/// How much is discarded at once, in bytes.
const CHUNK: usize = 16 << 10;

/// What is left of a session.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// The command, if it goes on, and its place as the workload.
    pub child: Option<(ChildHandle, Option<WorkloadSlot>)>,
    /// Its outputs that were not at their end.
    pub outputs: Vec<OwnedFd>,
}

impl Leftovers {
    /// Waits until the command has ended and no process can write to its outputs any more; what is
    /// written is discarded. If an output was closed, SIGPIPE or SIGHUP would kill a daemon; if it was
    /// not read, the daemon would block.
    pub fn discard(mut self) {
        let mut chunk = [0; CHUNK];
        while self.child.is_some() || !self.outputs.is_empty() {
            let outputs = self.outputs.iter().map(AsFd::as_fd);
            let ended = self.child.iter().map(|(child, _)| child.pidfd());
            let mut polled: Vec<PollFd<'_>> = (outputs.chain(ended))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Dropping a child kills it.
                Err(_) => return,
            }
            let ready: Vec<bool> = polled
                .iter()
                .map(|polled| !polled.revents().is_empty())
                .collect();
            let mut ready = ready.into_iter();
            self.outputs.retain(|output| {
                let readable = ready.next().unwrap_or(false);
                // A terminal that no process has open cannot be read (EIO).
                !readable
                    || matches!(
                        read(output, &mut chunk[..]),
                        Ok(1..) | Err(Errno::INTR | Errno::AGAIN)
                    )
            });
            if ready.next().unwrap_or(false)
                && let Some((child, _slot)) = self.child.take()
            {
                let _ = child.status();
            }
        }
    }
}
