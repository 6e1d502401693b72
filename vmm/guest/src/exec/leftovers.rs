//! The output pipes of a session that has ended, which daemons may still write to.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};

/// How much is discarded at once, in bytes.
const CHUNK: usize = 16 << 10;

/// Output pipes that were not at their end when the command ended.
#[derive(Debug, Default)]
pub struct Leftovers(pub Vec<OwnedFd>);

impl Leftovers {
    /// Reads and discards until no process can write to the pipes any more. If they were closed,
    /// SIGPIPE would kill a daemon at its next output; if they were not read, it would block.
    pub fn discard(self) {
        let mut pipes = self.0;
        let mut chunk = [0; CHUNK];
        while !pipes.is_empty() {
            let mut polled: Vec<PollFd<'_>> = pipes
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN))
                .collect();
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let ready: Vec<bool> = polled
                .iter()
                .map(|polled| !polled.revents().is_empty())
                .collect();
            let mut ready = ready.into_iter();
            pipes.retain(|pipe| {
                let readable = ready.next().unwrap_or(false);
                !readable
                    || matches!(
                        read(pipe, &mut chunk[..]),
                        Ok(1..) | Err(Errno::INTR | Errno::AGAIN)
                    )
            });
        }
    }
}
