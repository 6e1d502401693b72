//! The thread that reads the control socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use microagent_proto::control::{
    Answer, FromSupervisor, MAX_MESSAGE, PacketError, Refused, decode,
};
use microagent_proto::envelope::{Mismatch, Program};
use microagent_proto::warning::{MAX_WARNINGS, Warning};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::super::reaper;
use super::stderr::StderrTail;

/// What the control socket delivers.
#[derive(Debug)]
pub(super) enum SupervisorEvent {
    /// A message.
    Message(FromSupervisor),
    /// A packet of another version.
    Mismatch(Mismatch),
    /// A packet of this version that is not a message.
    Malformed,
    /// The supervisor has exited and was reaped. Always the last event.
    Exited {
        status: Option<ExitStatus>,
        /// The end of its standard error, if that was captured.
        stderr: String,
    },
}

/// The receiving end of the control socket. The listener thread waits for messages; any thread may
/// take those that have arrived.
#[derive(Debug)]
pub(super) struct Inbox {
    control: OwnedFd,
    state: Mutex<State>,
    orphans_are_reaped: OnceLock<bool>,
}

#[derive(Debug)]
struct State {
    events: Sender<SupervisorEvent>,
    /// `None` when the supervisor has exited.
    answers: Option<Sender<Answer>>,
    warnings: Vec<Warning>,
    accept: Option<Accept>,
    refused: Option<OnRefused>,
}

/// Takes a stream of the guest to a port of the host. It must not block.
pub(super) struct Accept(Box<dyn FnMut(u32, UnixStream) + Send>);

impl Accept {
    pub(super) fn new(accept: impl FnMut(u32, UnixStream) + Send + 'static) -> Accept {
        Accept(Box::new(accept))
    }
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Accept")
    }
}

/// Takes what the rules of the network interface have refused so far. It must not block.
pub(super) struct OnRefused(Box<dyn FnMut(Refused) + Send>);

impl OnRefused {
    pub(super) fn new(refused: impl FnMut(Refused) + Send + 'static) -> OnRefused {
        OnRefused(Box::new(refused))
    }
}

impl std::fmt::Debug for OnRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnRefused")
    }
}

/// What a read of the socket found.
enum Found {
    Message,
    Nothing,
    End,
}

impl Inbox {
    /// An inbox that sends answers to `answers` and everything else, except warnings, connections
    /// and refusals, to `events`.
    pub(super) fn new(
        control: OwnedFd,
        events: Sender<SupervisorEvent>,
        answers: Sender<Answer>,
    ) -> Inbox {
        Inbox {
            control,
            state: Mutex::new(State {
                events,
                answers: Some(answers),
                warnings: Vec::new(),
                accept: None,
                refused: None,
            }),
            orphans_are_reaped: OnceLock::new(),
        }
    }

    /// Sends the guest's streams to `accept`. Without it they are closed.
    pub(super) fn accept(&self, accept: Accept) {
        self.state().accept = Some(accept);
    }

    /// Calls `refused` with each report of refusals.
    pub(super) fn on_refused(&self, refused: OnRefused) {
        self.state().refused = Some(refused);
    }

    /// All warnings that have arrived. The supervisor sends the one about a failed request before
    /// the guest sees the failure, so what a guest's behaviour depends on is in it.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let mut state = self.state();
        while let Found::Message = self.receive(&mut state) {}
        state.warnings.clone()
    }

    /// Whether a supervisor that outlives this process will be reaped.
    pub(super) fn orphans_are_reaped(&self) -> bool {
        *self.orphans_are_reaped.get_or_init(reaper::reaps_orphans)
    }

    /// A test has no supervisor to wait for.
    #[cfg(test)]
    pub(super) fn assume_orphans_are_reaped(&self) {
        let _ = self.orphans_are_reaped.set(true);
    }

    /// Reads messages until end of file, and what the supervisor writes to standard error.
    fn read_to_end(&self, stderr: &mut StderrTail) {
        loop {
            let mut fds = vec![PollFd::new(&self.control, PollFlags::IN)];
            fds.extend((stderr.pipe()).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let has_message = !fds[0].revents().is_empty();
            stderr.read();
            if has_message && let Found::End = self.receive(&mut self.state()) {
                return;
            }
        }
    }

    /// Takes one message from the socket, if there is one. The lock keeps messages in order.
    fn receive(&self, state: &mut State) -> Found {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let length = loop {
            match recvmsg(
                &self.control,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
            ) {
                Ok(message) if message.bytes > 0 => break message.bytes,
                // Reported once, before the messages that have arrived, if the supervisor has
                // exited without reading all of ours.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(Errno::AGAIN) => return Found::Nothing,
                _ => return Found::End,
            }
        };
        let packet = &buffer[..length];
        let event = match decode(packet, Program::CommandLine, Program::Supervisor) {
            Ok(FromSupervisor::Warning(warning)) => {
                if state.warnings.len() < 2 * MAX_WARNINGS {
                    state.warnings.push(warning);
                }
                return Found::Message;
            }
            Ok(FromSupervisor::Answer(answer)) => {
                if let Some(answers) = &state.answers {
                    // Nobody asks any more.
                    let _ = answers.send(answer);
                }
                return Found::Message;
            }
            Ok(FromSupervisor::Refused(refused)) => {
                if let Some(OnRefused(take)) = &mut state.refused {
                    take(refused);
                }
                return Found::Message;
            }
            Ok(FromSupervisor::Connection { port }) => {
                let stream = ancillary.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                if let (Some(Accept(accept)), Some(stream)) = (&mut state.accept, stream) {
                    accept(port, stream.into());
                }
                return Found::Message;
            }
            Ok(message) => SupervisorEvent::Message(message),
            Err(PacketError::Version(mismatch)) => SupervisorEvent::Mismatch(mismatch),
            Err(PacketError::Message(_)) => SupervisorEvent::Malformed,
        };
        // Without a receiver the socket must still be read.
        let _ = state.events.send(event);
        Found::Message
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads messages until end of file, then reaps the child.
pub(super) fn listen(inbox: &Inbox, mut child: Child) {
    let mut stderr = StderrTail::new(child.stderr.take());
    // Found out now, because this thread has nothing else to do until the guest has booted.
    inbox.orphans_are_reaped();
    inbox.read_to_end(&mut stderr);
    // A supervisor that closed its socket must not keep running.
    let _ = child.kill();
    let status = child.wait().ok();
    stderr.read();
    let exited = SupervisorEvent::Exited {
        status,
        stderr: stderr.text(),
    };
    let mut state = inbox.state();
    state.answers = None;
    let _ = state.events.send(exited);
}
