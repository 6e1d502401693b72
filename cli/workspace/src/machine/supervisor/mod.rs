//! The supervisor of one VM: a child process and its control socket.
//!
//! The child lives exactly as long as the socket ([`microagent_proto::control`]): however this
//! process dies, the kernel closes the socket and the VM is killed. Conversely, a thread that
//! reads the socket sees end of file when the child exits, and reaps it.

mod connector;
mod controller;
mod error;
mod listener;
mod stderr;
mod streams;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::control::{
    Engine, FromSupervisor, Refused, StopReason, ToSupervisor, VmConfig, encode,
};
use microagent_proto::warning::Warning;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    sendmsg, socketpair,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

pub use self::connector::Connector;
pub use self::controller::{ControlError, Controller};
pub use self::error::SupervisorError;
use self::error::died;
use self::listener::{Accept, Inbox, OnRefused, SupervisorEvent, listen};
pub use self::streams::Streams;
use super::reaper;
use super::timeline::{Arrival, GuestReady, Restored};

/// What the supervisor's standard output is.
const NULL: &str = "/dev/null";

/// How long to wait for the reason of a VM's end after its streams have closed.
const EXIT_REASON_TIMEOUT: Duration = Duration::from_millis(800);

/// How long the supervisor may take to close its files, and then to be gone.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the supervisor may take to report on a VM that hangs: its engine may take ten seconds.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(15);

/// A running supervisor. Dropping it kills the VM; on KVM without waiting for it, if another
/// process will reap it.
#[derive(Debug)]
pub struct Supervisor {
    engine: Engine,
    /// It has exited and was reaped.
    exited: Cell<bool>,
    control: OwnedFd,
    events: Receiver<SupervisorEvent>,
    inbox: Arc<Inbox>,
    killer: Killer,
    controller: Controller,
}

/// Kills one supervisor from any thread.
#[derive(Debug, Clone)]
pub struct Killer(Arc<OwnedFd>);

impl Killer {
    /// Kills the supervisor without waiting for it. No effect if it has already exited.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }

    /// Kills a supervisor that has not received a configuration, and waits for it.
    fn reap(&self) {
        self.kill();
        let _ = waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Supervisor {
    /// Starts the program `path`, which prepares `engine`. With `verbose` it inherits standard
    /// error; otherwise the end of its standard error is kept for error messages.
    pub fn spawn(
        path: &Path,
        engine: Engine,
        verbose: bool,
    ) -> Result<Supervisor, SupervisorError> {
        let failed = |source: io::Error| SupervisorError::Spawn {
            path: path.to_owned(),
            source,
        };
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| failed(error.into()))?;
        let inbox = control.try_clone().map_err(failed)?;
        let requests = control.try_clone().map_err(failed)?;
        // Opened here, because an error of `spawn` would be one of the program.
        let null = File::options().write(true).open(NULL);
        let null = null.map_err(SupervisorError::Null)?;
        reaper::adopt_orphans();
        let mut child = Command::new(path)
            .arg(engine.name())
            .stdin(Stdio::from(theirs))
            .stdout(null)
            .stderr(if verbose {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            // No process group of its own: it calls setsid(2), which fails for a group's leader.
            .spawn()
            .map_err(failed)?;
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        let (sender, events) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let inbox = Arc::new(Inbox::new(inbox, sender, answer));
        let supervisor = Supervisor {
            engine,
            exited: Cell::new(false),
            control,
            events,
            inbox: Arc::clone(&inbox),
            killer: Killer(Arc::new(pidfd)),
            controller: Controller::new(requests, answers),
        };
        let listening = thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || listen(&inbox, child));
        if let Err(error) = listening {
            supervisor.killer.reap();
            supervisor.exited.set(true);
            return Err(failed(error));
        }
        Ok(supervisor)
    }

    /// The warnings of the VM so far, also after its end.
    pub fn warnings(&self) -> Vec<Warning> {
        self.inbox.warnings()
    }

    /// Calls `accept` with the guest's streams to ports of [`VmConfig::listen`], on the thread that
    /// reads the control socket: it must not block.
    pub fn on_connection(&self, accept: impl FnMut(u32, UnixStream) + Send + 'static) {
        self.inbox.accept(Accept::new(accept));
    }

    /// Calls `refused` with what the rules of the network interface have refused so far, when that is
    /// more than before, and before the message that the VM has ended; on the thread that reads the
    /// control socket: it must not block.
    pub fn on_refused(&self, refused: impl FnMut(Refused) + Send + 'static) {
        self.inbox.on_refused(OnRefused::new(refused));
    }

    /// A handle that opens streams to the guest.
    ///
    /// # Errors
    /// When this process is out of descriptors.
    pub fn connector(&self) -> io::Result<Connector> {
        self.control.try_clone().map(Connector::new)
    }

    /// A handle that asks it about the running VM.
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// A handle that kills it.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Starts booting the VM. `net` is the backend of [`VmConfig::net`].
    pub fn start(&self, config: VmConfig, net: Option<OwnedFd>) -> Result<(), SupervisorError> {
        self.send(&ToSupervisor::Start(Box::new(config)), net)
    }

    /// Opens a vsock stream to a port of the guest.
    pub fn connect(&self, port: u32) -> Result<UnixStream, SupervisorError> {
        let (ours, theirs) = UnixStream::pair().map_err(SupervisorError::Control)?;
        self.send(&ToSupervisor::Connect { port }, Some(theirs.into()))?;
        Ok(ours)
    }

    /// The next message; `None` at `deadline`.
    pub fn next(&self, deadline: Instant) -> Result<Option<FromSupervisor>, SupervisorError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(SupervisorEvent::Message(message)) => Ok(Some(message)),
            Ok(SupervisorEvent::Mismatch(mismatch)) => Err(mismatch.into()),
            Ok(SupervisorEvent::Malformed) => Err(SupervisorError::Protocol),
            Ok(SupervisorEvent::Exited { status, stderr }) => {
                self.exited.set(true);
                Err(died(status, &stderr))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(died(None, "")),
        }
    }

    /// Waits until the guest agent has reported.
    pub fn wait_until_ready(&self, timeout: Duration) -> Result<Arrival, SupervisorError> {
        let mut not_restored = None;
        let deadline = Instant::now() + timeout;
        loop {
            match self.next(deadline)? {
                Some(FromSupervisor::Ready {
                    monotonic_micros,
                    uptime_micros,
                    started_micros,
                    steps,
                }) => {
                    return Ok(Arrival::Booted(GuestReady {
                        monotonic_micros,
                        uptime_micros,
                        started_micros,
                        steps,
                        not_restored,
                    }));
                }
                Some(FromSupervisor::Restored {
                    steps,
                    disk_sectors,
                }) => {
                    return Ok(Arrival::Restored(Restored {
                        steps,
                        disk_sectors,
                    }));
                }
                Some(FromSupervisor::NotRestored { message }) => not_restored = Some(message),
                Some(message) => end_as_error(message)?,
                None => {
                    return Err(SupervisorError::ReadyTimeout {
                        timeout,
                        console: self.diagnose(),
                    });
                }
            }
        }
    }

    /// Logs the supervisor's report on a VM that hangs, and returns the end of the guest's console;
    /// empty when the supervisor does not answer.
    fn diagnose(&self) -> String {
        if self.send(&ToSupervisor::Diagnose, None).is_err() {
            return String::new();
        }
        let deadline = Instant::now() + DIAGNOSIS_TIMEOUT;
        while let Ok(Some(message)) = self.next(deadline) {
            match message {
                FromSupervisor::Diagnosis { console, report } => {
                    tracing::warn!("the guest agent did not report\nconsole:\n{console}\n{report}");
                    return console;
                }
                message => {
                    if end_as_error(message).is_err() {
                        break;
                    }
                }
            }
        }
        String::new()
    }

    /// Why the VM's streams closed, if the supervisor reports it within a short time.
    pub fn exit_reason(&self) -> Option<SupervisorError> {
        self.wait_for_end(Instant::now() + EXIT_REASON_TIMEOUT)
    }

    /// Waits for the end of the VM, and returns how it ended; `None` at `deadline`.
    pub fn wait_for_end(&self, deadline: Instant) -> Option<SupervisorError> {
        loop {
            match self.next(deadline) {
                Ok(Some(message)) => {
                    if let Err(end) = end_as_error(message) {
                        return Some(end);
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    }

    /// Waits until the VM has stopped; `None` after `timeout` or if the supervisor failed.
    pub fn wait_until_stopped(&self, timeout: Duration) -> Option<StopReason> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next(deadline) {
                Ok(Some(FromSupervisor::Stopped { reason, .. })) => return Some(reason),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Ends the VM, unless it has `stopped` by itself. When this returns, the supervisor has
    /// nothing open any more in the file systems of the state directory and the disks, unless one
    /// of them hangs. It is also gone if nobody else would reap it, and on engine `qemu`. On KVM it
    /// usually is not: the host takes milliseconds to tear a VM down.
    pub fn end(self, stopped: bool) {
        // Before it reports the end of a VM, the supervisor closes everything.
        if !stopped && !self.exited.get() && self.send(&ToSupervisor::Release, None).is_ok() {
            let deadline = Instant::now() + RELEASE_TIMEOUT;
            while let Ok(Some(message)) = self.next(deadline) {
                if message == FromSupervisor::Released || end_as_error(message).is_err() {
                    break;
                }
            }
        }
        let qemu = self.engine == Engine::Qemu;
        drop(self);
        if qemu {
            // A supervisor that was killed leaves QEMU to this process.
            reaper::reap_children(RELEASE_TIMEOUT);
        }
    }

    fn send(
        &self,
        message: &ToSupervisor,
        attached: Option<OwnedFd>,
    ) -> Result<(), SupervisorError> {
        let bytes = encode(message).map_err(|_| SupervisorError::Protocol)?;
        // Its last message has the reason.
        send(&self.control, &bytes, attached).map_err(|error| {
            self.exit_reason()
                .unwrap_or_else(|| SupervisorError::Control(error.into()))
        })
    }
}

/// Sends a packet, with a descriptor if there is one.
fn send(
    control: &OwnedFd,
    packet: &[u8],
    attached: Option<OwnedFd>,
) -> Result<(), rustix::io::Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = attached.as_ref().map(|attached| [attached.as_fd()]);
    if let Some(fds) = &fds {
        // The buffer has room for exactly one.
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(
        control,
        &[IoSlice::new(packet)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map(drop)
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.killer.kill();
        let reap = self.engine == Engine::Qemu || !self.inbox.orphans_are_reaped();
        if reap && !self.exited.get() {
            let deadline = Instant::now() + RELEASE_TIMEOUT;
            while let Ok(Some(_)) = self.next(deadline) {}
        }
    }
}

/// Turns a message that reports the end of the VM into an error.
fn end_as_error(message: FromSupervisor) -> Result<(), SupervisorError> {
    match message {
        FromSupervisor::Stopped {
            reason, console, ..
        } => Err(SupervisorError::Stopped { reason, console }),
        FromSupervisor::Failed {
            message,
            remediation,
            console,
        } => Err(SupervisorError::Failed {
            message,
            remediation,
            console,
        }),
        // Warnings, refusals, answers and connections are handled by the inbox.
        FromSupervisor::Ready { .. }
        | FromSupervisor::Restored { .. }
        | FromSupervisor::NotRestored { .. }
        | FromSupervisor::Diagnosis { .. }
        | FromSupervisor::Released
        | FromSupervisor::Answer(_)
        | FromSupervisor::Connection { .. }
        | FromSupervisor::Refused(_)
        | FromSupervisor::Warning(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use microagent_pipeline::ErrorKind;
    use microagent_proto::VERSION;
    use microagent_proto::envelope::envelope;

    use super::*;

    /// A supervisor without a process: what feeds its messages, and its end of the socket.
    fn supervisor() -> (Supervisor, mpsc::Sender<SupervisorEvent>, OwnedFd) {
        let (control, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let (sender, events) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let inbox = Inbox::new(control.try_clone().unwrap(), sender.clone(), answer);
        inbox.assume_orphans_are_reaped();
        let supervisor = Supervisor {
            engine: Engine::Kvm,
            exited: Cell::new(false),
            inbox: Arc::new(inbox),
            killer: Killer(Arc::new(control.try_clone().unwrap())),
            controller: Controller::new(control.try_clone().unwrap(), answers),
            control,
            events,
        };
        (supervisor, sender, theirs)
    }

    fn ready_timeout(supervisor: &Supervisor) -> SupervisorError {
        supervisor.wait_until_ready(Duration::ZERO).unwrap_err()
    }

    #[test]
    fn a_guest_that_does_not_report_is_diagnosed() {
        let (supervisor, sender, theirs) = supervisor();
        let answering = thread::spawn(move || {
            let mut bytes = [0; 100];
            let flags = rustix::net::RecvFlags::empty();
            let (length, _) = rustix::net::recv(&theirs, &mut bytes[..], flags).unwrap();
            assert_eq!(bytes[..length], encode(&ToSupervisor::Diagnose).unwrap());
            sender
                .send(SupervisorEvent::Message(FromSupervisor::Diagnosis {
                    console: "first\nlast\n".into(),
                    report: "devices:".into(),
                }))
                .unwrap();
        });
        let error = ready_timeout(&supervisor);
        answering.join().unwrap();
        assert_eq!(
            error.to_string(),
            "the guest agent did not report within 0 s"
        );
        assert_eq!(error.remediation().unwrap(), "guest console: last");
    }

    #[test]
    fn a_supervisor_of_another_version_is_named_at_once() {
        let (supervisor, _sender, theirs) = supervisor();
        let child = std::process::Command::new("true").spawn().unwrap();
        for version in [VERSION - 1, VERSION + 1] {
            let packet = envelope(version);
            rustix::net::send(&theirs, &packet, SendFlags::empty()).unwrap();
        }
        // What versions before the envelope sent.
        let old = br#"{"failed":{"message":"x","remediation":null,"console":""}}"#;
        rustix::net::send(&theirs, old, SendFlags::empty()).unwrap();
        drop(theirs);
        listen(&supervisor.inbox, child);
        for version in [
            format!("version {}", VERSION - 1),
            format!("version {}", VERSION + 1),
            "version 3 or older".to_owned(),
        ] {
            let error = ready_timeout(&supervisor);
            assert_eq!(
                error.to_string(),
                format!(
                    "protocol mismatch: microagent uses version {VERSION}, \
                     microagent-supervisor {version}"
                )
            );
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert_eq!(
                error.remediation().unwrap(),
                "use the microagent-supervisor of the same installation as microagent"
            );
        }
    }

    #[test]
    fn a_supervisor_that_does_not_know_the_envelope_is_of_another_version() {
        use std::os::unix::process::ExitStatusExt;
        let status = Some(std::process::ExitStatus::from_raw(2 << 8));
        let stderr = "microagent-supervisor: invalid control message\n";
        assert_eq!(
            died(status, stderr).to_string(),
            format!(
                "protocol mismatch: microagent uses version {VERSION}, \
                 microagent-supervisor version 3 or older"
            )
        );
    }

    #[test]
    fn warnings_are_complete_without_a_waiting_thread_and_other_messages_stay_in_order() {
        let (supervisor, _sender, theirs) = supervisor();
        let send = |message: &FromSupervisor| {
            let bytes = encode(message).unwrap();
            rustix::net::send(&theirs, &bytes, SendFlags::empty()).unwrap();
        };
        let warning = |text: &str| Warning::Log(text.to_owned());
        let stopped = FromSupervisor::Stopped {
            reason: StopReason::PowerOff,
            steps: Vec::new(),
            console: String::new(),
        };
        assert_eq!(supervisor.warnings(), []);
        send(&FromSupervisor::Warning(warning("first")));
        send(&stopped);
        send(&FromSupervisor::Warning(warning("second")));
        drop(theirs);
        for _ in 0..2 {
            assert_eq!(supervisor.warnings(), [warning("first"), warning("second")]);
        }
        let next = supervisor.next(Instant::now()).unwrap();
        assert_eq!(next, Some(stopped));
    }

    #[test]
    fn refusals_are_known_before_the_end() {
        let (supervisor, _sender, theirs) = supervisor();
        let child = std::process::Command::new("true").spawn().unwrap();
        let (sender, refusals) = mpsc::channel();
        supervisor.on_refused(move |refused| sender.send(refused.total()).unwrap());
        let refused = |count| {
            FromSupervisor::Refused(Refused {
                refused: Vec::new(),
                refused_counts: [("noRule".to_owned(), count)].into(),
            })
        };
        for message in [refused(1), refused(9), FromSupervisor::Released] {
            let bytes = encode(&message).unwrap();
            rustix::net::send(&theirs, &bytes, SendFlags::empty()).unwrap();
        }
        drop(theirs);
        listen(&supervisor.inbox, child);
        let next = supervisor.next(Instant::now()).unwrap();
        assert_eq!(next, Some(FromSupervisor::Released));
        assert_eq!(refusals.try_iter().collect::<Vec<_>>(), [1, 9]);
    }

    #[test]
    fn a_supervisor_that_does_not_answer_leaves_the_error_as_it_is() {
        let (supervisor, _sender, theirs) = supervisor();
        drop(theirs);
        let error = ready_timeout(&supervisor);
        assert_eq!(
            error.to_string(),
            "the guest agent did not report within 0 s"
        );
        assert_eq!(error.remediation(), None);
    }
}
