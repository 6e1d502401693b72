//! Forwards a command's standard streams until it has ended, or the host leaves it.
//!
//! One loop over poll(2), in which nothing blocks. If the host does not read, the pipes fill up and
//! the command's output stalls; input and signals are handled nevertheless.
//!
//! The session ends when the command has exited *and* all its output has been sent. A descendant
//! that keeps a pipe open does not hold the session open: the bytes that were in the pipes when the
//! command exited are always sent, then the session ends after [`DRAIN_SILENCE`] without output,
//! and after [`DRAIN_LIMIT`] at the latest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use microagent_proto::ReadBuffer;
use microagent_proto::agent::{Exited, Input, Reply};
use microagent_proto::frame::{FrameError, Kind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ioctl_fionread, read};
use rustix::process::Signal;

use crate::children::{ChildHandle, Status};
use crate::exec::command::Running;
use crate::exec::inbox::{Inbox, Received};
use crate::exec::input::StandardInput;
use crate::exec::leftovers::Leftovers;
use crate::exec::outbox::Outbox;
use crate::exec::relay::Open;
use crate::exec::terminal;
use crate::namespaces::WorkloadSlot;
use crate::stream::Stream;

/// How long to wait for output from a pipe that a descendant keeps open.
const DRAIN_SILENCE: Duration = Duration::from_millis(250);

/// How long a descendant that keeps writing can hold the session open.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// The signal with which the kernel kills a process when memory is exhausted.
const SIGKILL: i32 = 9;

/// The exit code of a shell whose command was killed by [`SIGKILL`].
const SHELL_SIGKILL: i32 = 128 + SIGKILL;

/// Forwards the streams of `running` and reports how it ended; `out_of_memory` is called when it
/// has been killed, or exits like a shell whose command has been. Returns the outputs that are still
/// open, and the command if the host has left it. With `relay`, a session that is lost is replaced by the
/// next one.
///
/// # Errors
/// The session's stream failed or ended early; the command has been killed.
pub fn forward(
    stream: &mut Stream,
    running: Running,
    relay: Option<Open<'_>>,
    out_of_memory: impl Fn() -> bool,
) -> Result<Leftovers, FrameError> {
    let ends = running.ends;
    let mut forwarder = Forwarder {
        stream,
        relay,
        outputs: [
            Output::new(ends.stdout, Kind::Stdout),
            Output::new(ends.stderr, Kind::Stderr),
        ],
        input: StandardInput::new(ends.stdin, ends.terminal.is_some()),
        terminal: ends.terminal,
        inbox: Inbox::default(),
        outbox: Outbox::new(),
        buffer: ReadBuffer::new(),
    };
    let Some(status) = forwarder.until_exit(&running.child)? else {
        let child = Some((running.child, running.slot));
        forwarder.outbox.reply(&Reply::Detached)?;
        // The command stays, whether or not the host is still there.
        let _ = forwarder.send_all();
        return Ok(forwarder.leftovers(child));
    };
    forwarder.drain()?;
    let was_killed = matches!(
        status,
        Status::Killed(SIGKILL) | Status::Exited(SHELL_SIGKILL)
    );
    let (code, signal) = match status {
        Status::Exited(code) => (Some(code), None),
        Status::Killed(signal) => (None, Some(signal)),
    };
    let exited = Exited {
        code,
        signal,
        out_of_memory: was_killed && out_of_memory(),
    };
    // From here on the VM can have another workload.
    drop(running.slot);
    forwarder.outbox.reply(&Reply::Exited(exited))?;
    forwarder.send_all()?;
    Ok(forwarder.leftovers(None))
}

struct Forwarder<'a> {
    stream: &'a mut Stream,
    relay: Option<Open<'a>>,
    outputs: [Output; 2],
    input: StandardInput,
    terminal: Option<OwnedFd>,
    inbox: Inbox,
    outbox: Outbox,
    buffer: ReadBuffer,
}

impl Forwarder<'_> {
    /// `None` if the host leaves the command.
    fn until_exit(&mut self, child: &ChildHandle) -> Result<Option<Status>, FrameError> {
        loop {
            if self.wait(Some(child), None)?.ended {
                return Ok(Some(child.status()?));
            }
            if self.handle_input(child)? == Host::Left {
                return Ok(None);
            }
        }
    }

    fn send_all(&mut self) -> Result<(), FrameError> {
        while !self.outbox.is_empty() {
            self.wait(None, None)?;
        }
        Ok(())
    }

    fn leftovers(self, child: Option<(ChildHandle, Option<WorkloadSlot>)>) -> Leftovers {
        let outputs = self.outputs.into_iter();
        Leftovers {
            child,
            outputs: outputs.filter_map(|output| output.pipe).collect(),
        }
    }

    /// Sends the remaining output after the command has exited.
    fn drain(&mut self) -> Result<(), FrameError> {
        for output in &mut self.outputs {
            output.record_unsent()?;
        }
        let limit = Instant::now() + DRAIN_LIMIT;
        let mut silence = Instant::now() + DRAIN_SILENCE;
        while self.outputs.iter().any(|output| output.pipe.is_some()) {
            let unsent = self.outputs.iter().any(|output| output.unsent > 0);
            let left = silence.min(limit).saturating_duration_since(Instant::now());
            if left.is_zero() && !unsent {
                break;
            }
            // If the host does not read, it decides how long this takes.
            let timeout = (!unsent).then_some(left);
            if self.wait(None, timeout)?.output {
                silence = Instant::now() + DRAIN_SILENCE;
            }
        }
        Ok(())
    }

    /// Waits for one event, reads from the host, and forwards output and pending input. Without
    /// `child`, the command has ended, and input is ignored.
    fn wait(
        &mut self,
        child: Option<&ChildHandle>,
        timeout: Option<Duration>,
    ) -> Result<Ready, FrameError> {
        let accepts_output = self.outbox.is_empty();
        let mut host = PollFlags::IN | PollFlags::RDHUP;
        if !accepts_output {
            host |= PollFlags::OUT;
        }
        let blocked = child.and_then(|_| self.input.blocked());
        let [ended, stdout, stderr, stdin, host] = poll_all(
            [
                child.map(|child| (child.pidfd(), PollFlags::IN)),
                self.outputs[0].interest(accepts_output),
                self.outputs[1].interest(accepts_output),
                blocked.map(|pipe| (pipe, PollFlags::OUT)),
                Some((self.stream.as_fd(), host)),
            ],
            timeout,
        )?;
        if stdin {
            self.input.push()?;
        }
        for (output, ready) in self.outputs.iter_mut().zip([stdout, stderr]) {
            if ready && !ended {
                output.forward(&mut self.buffer, &mut self.outbox)?;
            }
        }
        if let Some(bytes) = self.input.report() {
            self.outbox.reply(&Reply::StdinConsumed { bytes })?;
        }
        if let Err(lost) = self.exchange(host) {
            let Some(relay) = &self.relay else {
                // Dropping the child kills it.
                return Err(lost);
            };
            *self.stream = relay.take();
            self.inbox = Inbox::default();
            self.outbox.begin_anew();
        }
        Ok(Ready {
            ended,
            output: stdout || stderr,
        })
    }

    /// Sends what is pending, and receives if the stream is `readable`.
    fn exchange(&mut self, readable: bool) -> Result<(), FrameError> {
        self.outbox.flush(self.stream)?;
        match readable && self.inbox.fill(self.stream)? == Received::Closed {
            true => Err(FrameError::Closed("the end of the command")),
            false => Ok(()),
        }
    }

    /// Handles received frames.
    fn handle_input(&mut self, child: &ChildHandle) -> Result<Host, FrameError> {
        while let Some(frame) = self.inbox.next()? {
            match frame.kind {
                Kind::Stdin => self.input.accept(&frame.payload)?,
                Kind::Message => match serde_json::from_slice(&frame.payload)? {
                    Input::Signal(number) => {
                        if let Some(signal) = Signal::from_named_raw(number) {
                            child.signal(signal);
                        }
                    }
                    Input::SignalGroup(number) => {
                        if let Some(signal) = Signal::from_named_raw(number) {
                            child.signal_group(signal);
                        }
                    }
                    Input::Kill => child.kill(),
                    Input::Resize(size) => {
                        if let Some(terminal) = &self.terminal {
                            terminal::resize(terminal, size)?;
                        }
                    }
                    Input::Detach => return Ok(Host::Left),
                },
                got @ (Kind::Stdout | Kind::Stderr) => {
                    return Err(FrameError::Unexpected {
                        got,
                        expected: "input",
                    });
                }
            }
        }
        Ok(Host::Present)
    }
}

/// Whether the host wants to know of the command's end.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Present,
    Left,
}

/// What has happened.
struct Ready {
    /// The command has ended. Its output has not been forwarded in this step.
    ended: bool,
    /// The command, or a descendant, has written or closed an output.
    output: bool,
}

/// One of the command's output pipes, or its terminal.
struct Output {
    /// `None` after the end of the stream.
    pipe: Option<OwnedFd>,
    kind: Kind,
    /// Bytes that were in the pipe when the command exited and are not sent yet.
    unsent: u64,
}

impl Output {
    fn new(pipe: Option<OwnedFd>, kind: Kind) -> Output {
        Output {
            pipe,
            kind,
            unsent: 0,
        }
    }

    fn interest(&self, wanted: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let pipe = self.pipe.as_ref().filter(|_| wanted)?;
        Some((pipe.as_fd(), PollFlags::IN))
    }

    fn record_unsent(&mut self) -> io::Result<()> {
        if let Some(pipe) = &self.pipe {
            self.unsent = ioctl_fionread(pipe)?;
        }
        Ok(())
    }

    fn forward(&mut self, buffer: &mut ReadBuffer, outbox: &mut Outbox) -> Result<(), FrameError> {
        let Some(pipe) = &self.pipe else {
            return Ok(());
        };
        match read(pipe, buffer.space()) {
            // A terminal that no process has open (EIO).
            Ok(0) | Err(Errno::IO) => {
                self.pipe = None;
                self.unsent = 0;
                Ok(())
            }
            Ok(length) => {
                self.unsent = self.unsent.saturating_sub(length as u64);
                outbox.frame(self.kind, buffer.read(length))?;
                buffer.grow(length);
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            // Another process has read what was in the pipe, through /dev/stdout.
            Err(Errno::AGAIN) => {
                self.unsent = 0;
                Ok(())
            }
            Err(error) => Err(io::Error::from(error).into()),
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
