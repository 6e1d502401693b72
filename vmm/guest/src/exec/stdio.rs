//! Forwards a command's standard streams until it has ended.
//!
//! One loop over poll(2). Writes to the host block: if the host does not read, the pipes fill up
//! and the command's output stalls, and nothing else. Reads from the host do not block, and happen
//! only while the command reads its input.
//!
//! The session ends when the command has exited *and* all its output has been sent. A descendant
//! that keeps a pipe open does not hold the session open: the bytes that were in the pipes when the
//! command exited are always sent, then the session ends after [`DRAIN_SILENCE`] without output,
//! and after [`DRAIN_LIMIT`] at the latest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use microagent_proto::agent::{Exited, Input};
use microagent_proto::frame::{DATA_CHUNK, FrameError, Kind, write_frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::process::{Signal, WaitStatus};

use crate::children::ChildHandle;
use crate::exec::command::Running;
use crate::exec::inbox::{Inbox, Received};
use crate::stream::Stream;

/// How long to wait for output from a pipe that a descendant keeps open.
const DRAIN_SILENCE: Duration = Duration::from_millis(250);

/// How long a descendant that keeps writing can hold the session open.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// Forwards the streams of `running` and returns how it ended.
///
/// # Errors
/// The session's stream failed or ended early; the command's process group has been killed.
pub fn forward(stream: &mut Stream, running: Running) -> Result<Exited, FrameError> {
    let mut forwarder = Forwarder {
        child: running.child,
        outputs: [
            Output::new(running.stdout, Kind::Stdout),
            Output::new(running.stderr, Kind::Stderr),
        ],
        input: StandardInput {
            pipe: running.stdin,
            pending: Vec::new(),
        },
        inbox: Inbox::default(),
        buffer: vec![0; DATA_CHUNK],
    };
    let status = forwarder.until_exit(stream)?;
    forwarder.drain(stream)?;
    Ok(exited(status))
}

fn exited(status: WaitStatus) -> Exited {
    Exited {
        code: status.exit_status(),
        signal: status.terminating_signal(),
    }
}

struct Forwarder {
    child: ChildHandle,
    outputs: [Output; 2],
    input: StandardInput,
    inbox: Inbox,
    buffer: Vec<u8>,
}

impl Forwarder {
    fn until_exit(&mut self, stream: &mut Stream) -> Result<WaitStatus, FrameError> {
        loop {
            let Some(ended) = self.child.ended() else {
                return Ok(self.child.status());
            };
            // While input is pending, nothing more is read from the stream, but its end is still
            // detected.
            let from_host = match self.input.blocked() {
                None => PollFlags::IN | PollFlags::RDHUP,
                Some(_) => PollFlags::RDHUP,
            };
            let ready = poll_all(
                [
                    Some((ended, PollFlags::IN)),
                    self.outputs[0].interest(),
                    self.outputs[1].interest(),
                    self.input.blocked().map(|pipe| (pipe, PollFlags::OUT)),
                    Some((stream.as_fd(), from_host)),
                ],
                None,
            )?;
            let [has_ended, stdout, stderr, stdin, host] = ready;
            if has_ended {
                return Ok(self.child.status());
            }
            self.forward([stdout, stderr], stream)?;
            if stdin {
                self.input.push()?;
            }
            if host && self.inbox.fill(stream)? == Received::Closed {
                // Dropping the child kills its process group.
                return Err(FrameError::Closed("the end of the command"));
            }
            self.handle_input()?;
        }
    }

    /// Sends one chunk from each ready pipe.
    fn forward(&mut self, ready: [bool; 2], stream: &mut Stream) -> Result<(), FrameError> {
        for (output, ready) in self.outputs.iter_mut().zip(ready) {
            if ready {
                output.forward(&mut self.buffer, stream)?;
            }
        }
        Ok(())
    }

    /// Handles received frames until input is pending that the command has not read.
    fn handle_input(&mut self) -> Result<(), FrameError> {
        while self.input.blocked().is_none() {
            let Some(frame) = self.inbox.next()? else {
                break;
            };
            match frame.kind {
                Kind::Stdin => self.input.take(frame.payload)?,
                Kind::Message => {
                    let Input::Signal(number) = serde_json::from_slice(&frame.payload)?;
                    if let Some(signal) = Signal::from_named_raw(number) {
                        self.child.signal_group(signal);
                    }
                }
                got @ (Kind::Stdout | Kind::Stderr) => {
                    return Err(FrameError::Unexpected {
                        got,
                        expected: "input",
                    });
                }
            }
        }
        Ok(())
    }

    /// Sends the remaining output after the command has exited.
    fn drain(&mut self, stream: &mut Stream) -> Result<(), FrameError> {
        for output in &mut self.outputs {
            output.record_unsent()?;
        }
        let limit = Instant::now() + DRAIN_LIMIT;
        let mut silence = Instant::now() + DRAIN_SILENCE;
        while self.outputs.iter().any(Output::is_open) {
            let unsent = self.outputs.iter().any(|output| output.unsent > 0);
            let left = silence.min(limit).saturating_duration_since(Instant::now());
            if left.is_zero() && !unsent {
                break;
            }
            let [stdout, stderr] = poll_all(
                [self.outputs[0].interest(), self.outputs[1].interest()],
                Some(left),
            )?;
            if stdout || stderr {
                self.forward([stdout, stderr], stream)?;
                silence = Instant::now() + DRAIN_SILENCE;
            }
        }
        Ok(())
    }
}

/// One of the command's output pipes.
struct Output {
    /// `None` after the end of the stream.
    pipe: Option<OwnedFd>,
    kind: Kind,
    /// Bytes that were in the pipe when the command exited and are not sent yet.
    unsent: u64,
}

impl Output {
    fn new(pipe: OwnedFd, kind: Kind) -> Output {
        Output {
            pipe: Some(pipe),
            kind,
            unsent: 0,
        }
    }

    fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let pipe = self.pipe.as_ref()?;
        Some((pipe.as_fd(), PollFlags::IN))
    }

    fn record_unsent(&mut self) -> io::Result<()> {
        if let Some(pipe) = &self.pipe {
            self.unsent = ioctl_fionread(pipe)?;
        }
        Ok(())
    }

    fn forward(&mut self, buffer: &mut [u8], stream: &mut Stream) -> Result<(), FrameError> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        match read(pipe, &mut *buffer) {
            Ok(0) => {
                self.pipe = None;
                self.unsent = 0;
                Ok(())
            }
            Ok(length) => {
                self.unsent = self.unsent.saturating_sub(length as u64);
                write_frame(stream, self.kind, &buffer[..length])
            }
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

/// The command's standard input.
struct StandardInput {
    /// `None` if it was not requested, was closed by the host, or has no readers left.
    pipe: Option<OwnedFd>,
    /// Bytes that the command has not read yet.
    pending: Vec<u8>,
}

impl StandardInput {
    /// The pipe, if input is pending.
    fn blocked(&self) -> Option<BorrowedFd<'_>> {
        let pipe = self.pipe.as_ref()?;
        (!self.pending.is_empty()).then(|| pipe.as_fd())
    }

    /// Accepts the payload of one frame; an empty payload closes the input.
    fn take(&mut self, payload: Vec<u8>) -> io::Result<()> {
        if payload.is_empty() {
            self.pipe = None;
            return Ok(());
        }
        self.pending = payload;
        self.push()
    }

    /// Writes pending input without blocking. If the pipe has no readers left, input is discarded,
    /// as in a shell pipeline.
    fn push(&mut self) -> io::Result<()> {
        let Some(pipe) = &self.pipe else {
            self.pending.clear();
            return Ok(());
        };
        match rustix::io::write(pipe, &self.pending) {
            Ok(taken) => {
                self.pending.drain(..taken);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(Errno::PIPE) => {
                self.pipe = None;
                self.pending.clear();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Polls the descriptors that are present and returns which of them have events.
fn poll_all<const N: usize>(
    interests: [Option<(BorrowedFd<'_>, PollFlags)>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> = interests
        .iter()
        .flatten()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    let timeout = timeout.and_then(|timeout| timeout.try_into().ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; N]),
        Err(error) => return Err(error.into()),
    }
    let mut answers = polled.iter().map(|polled| !polled.revents().is_empty());
    Ok(interests.map(|interest| interest.is_some() && answers.next().unwrap_or(false)))
}
