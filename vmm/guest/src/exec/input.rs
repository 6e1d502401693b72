//! The command's standard input: a pipe, or its terminal.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use microagent_proto::agent::STDIN_WINDOW;
use microagent_proto::frame::FrameError;
use rustix::io::Errno;

/// How many consumed bytes are reported at once, unless nothing is pending.
const REPORT: usize = STDIN_WINDOW / 4;

/// What is written to a terminal at the end of the input (Ctrl-D). A program that reads lines takes
/// it for the end, another for a character.
const END_OF_TERMINAL: u8 = 4;

/// The agent's end of the pipe, and what the command has not read yet.
#[derive(Debug)]
pub struct StandardInput {
    /// `None` if it was not requested, is at its end, or has no readers left.
    pipe: Option<OwnedFd>,
    /// At most [`STDIN_WINDOW`] bytes.
    pending: VecDeque<u8>,
    /// The pipe is a terminal.
    terminal: bool,
    /// The host has sent everything.
    complete: bool,
    /// Consumed bytes that the host has not been told of.
    unreported: usize,
}

impl StandardInput {
    /// Input for `pipe`, which does not block and may be a terminal.
    pub fn new(pipe: Option<OwnedFd>, terminal: bool) -> StandardInput {
        StandardInput {
            pipe,
            pending: VecDeque::new(),
            terminal,
            complete: false,
            unreported: 0,
        }
    }

    /// The pipe, if the command must read before there is more to do.
    pub fn blocked(&self) -> Option<BorrowedFd<'_>> {
        let pipe = self.pipe.as_ref()?;
        (!self.pending.is_empty()).then(|| pipe.as_fd())
    }

    /// Accepts the payload of one frame; an empty payload is the end.
    pub fn accept(&mut self, payload: &[u8]) -> Result<(), FrameError> {
        let ends = payload.is_empty() && !self.complete;
        self.complete |= ends;
        self.pending.extend(payload);
        if ends && self.terminal && self.pipe.is_some() {
            self.pending.push_back(END_OF_TERMINAL);
        } else if self.pending.len() + self.unreported > STDIN_WINDOW {
            return Err(FrameError::StdinWindow);
        }
        Ok(self.push()?)
    }

    /// Writes pending input without blocking. If the pipe has no readers left, input is discarded,
    /// as in a shell pipeline.
    pub fn push(&mut self) -> io::Result<()> {
        while let (Some(pipe), false) = (&self.pipe, self.pending.is_empty()) {
            match rustix::io::write(pipe, self.pending.as_slices().0) {
                Ok(taken) => {
                    self.pending.drain(..taken);
                    self.unreported += taken;
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                // A terminal that no process has open (EIO).
                Err(Errno::PIPE | Errno::IO) => self.pipe = None,
                Err(error) => return Err(error.into()),
            }
        }
        if self.complete {
            self.pipe = None;
        }
        self.unreported += self.pending.len();
        self.pending.clear();
        Ok(())
    }

    /// The number of consumed bytes to report now.
    pub fn report(&mut self) -> Option<usize> {
        let due = self.unreported >= REPORT || (self.unreported > 0 && self.pending.is_empty());
        due.then(|| std::mem::take(&mut self.unreported))
    }
}
