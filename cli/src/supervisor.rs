//! The supervisor of one VM, as its caller sees it: a child process and a control socket.
//!
//! The child lives exactly as long as the socket ([`microagent_proto::control`]): when this
//! process dies, however it dies, the kernel closes the socket and the VM is killed. The other
//! way round, a thread that reads the socket sees its end at once and collects the child.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use microagent_pipeline::ErrorKind;
use microagent_proto::control::{
    Engine, FromSupervisor, MAX_MESSAGE, StopReason, ToSupervisor, VmConfig,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::failure::Failure;
use crate::timeline::GuestReady;

/// How much of the supervisor's standard error is kept for messages, in bytes.
const STDERR_TAIL: usize = 4 << 10;

/// How long the news of a VM's end may take after its streams have ended.
const LAST_NEWS: Duration = Duration::from_millis(800);

/// Why there is no VM any more, or why there never was one.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The program cannot be started.
    #[error("cannot start the supervisor {}", .path.display())]
    Spawn {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The control socket failed while the supervisor lived.
    #[error("cannot talk to the supervisor")]
    Control(#[source] io::Error),
    /// It sent what cannot be understood.
    #[error("the supervisor speaks another language; it is not of this version")]
    Language,
    /// It could not start the VM, or the monitor failed.
    #[error("{message}")]
    Failed {
        /// Its own words.
        message: String,
        /// The way out.
        remediation: Option<String>,
        /// The end of the guest's console.
        console: String,
    },
    /// The VM ended by itself.
    #[error("the guest {}", ended(*.reason))]
    Stopped {
        /// How.
        reason: StopReason,
        /// The end of the guest's console.
        console: String,
    },
    /// The supervisor is gone without a word.
    #[error("the supervisor of the VM died ({how}){stderr}")]
    Died {
        /// Its exit status.
        how: String,
        /// The end of its standard error, led by a colon; or nothing.
        stderr: String,
    },
    /// Nothing was heard in time.
    #[error("the guest agent did not report within {} s", .0.as_secs())]
    Silent(Duration),
}

fn ended(reason: StopReason) -> &'static str {
    match reason {
        StopReason::PowerOff => "powered off before its command had ended",
        StopReason::Reset => "was reset before its command had ended",
        StopReason::Crash => "crashed before its command had ended",
        StopReason::Killed => "was killed before its command had ended",
    }
}

impl From<SupervisorError> for Failure {
    fn from(error: SupervisorError) -> Failure {
        let (kind, console) = match &error {
            SupervisorError::Stopped { console, .. } => (ErrorKind::Guest, console.as_str()),
            SupervisorError::Failed { console, .. } => (ErrorKind::Host, console.as_str()),
            SupervisorError::Silent(_) => (ErrorKind::Timeout, ""),
            SupervisorError::Language => (ErrorKind::Internal, ""),
            _ => (ErrorKind::Host, ""),
        };
        let mut failure = Failure::caused(kind, &error);
        if let SupervisorError::Failed { remediation, .. } = error {
            return failure.maybe_way_out(remediation);
        }
        if let Some(line) = telling_line(console) {
            failure = failure.way_out(format!("the guest's last words: {line}"));
        }
        failure
    }
}

/// The line of a console that says most about its end: the agent's, a panic's, or the last.
fn telling_line(console: &str) -> Option<&str> {
    let lines = || console.lines().map(str::trim).rev();
    lines()
        .find(|line| line.starts_with("microagent-guest: "))
        .or_else(|| lines().find(|line| line.contains("Kernel panic")))
        .or_else(|| lines().find(|line| !line.is_empty()))
}

/// A supervisor. Dropping it kills the VM and does not wait.
#[derive(Debug)]
pub struct Supervisor {
    control: OwnedFd,
    news: Receiver<News>,
    killer: Killer,
}

#[derive(Debug)]
enum News {
    Message(FromSupervisor),
    NotUnderstood,
    Gone {
        status: Option<ExitStatus>,
        stderr: String,
    },
}

/// Kills one supervisor, from any thread.
#[derive(Debug, Clone)]
pub struct Killer(Arc<OwnedFd>);

impl Killer {
    /// Kills it now, and does not wait. A supervisor that is gone stays gone.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&*self.0, Signal::KILL);
    }
}

impl Supervisor {
    /// Starts the program, which prepares for `engine`. `loud` passes its standard error on instead
    /// of keeping its end.
    pub fn spawn(path: &Path, engine: Engine, loud: bool) -> Result<Supervisor, SupervisorError> {
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
        let mut child = Command::new(path)
            .arg(engine.name())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(if loud {
                Stdio::inherit()
            } else {
                Stdio::piped()
            })
            // Ctrl-C is for this process, which then knows that it was interrupted.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                return Err(failed(error.into()));
            }
        };
        let (tell, news) = mpsc::channel();
        let supervisor = Supervisor {
            control: control.try_clone().map_err(failed)?,
            news,
            killer: Killer(Arc::new(pidfd)),
        };
        thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || listen(&control, child, &tell))
            .map_err(failed)?;
        Ok(supervisor)
    }

    /// What kills it.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Boots a VM.
    pub fn start(&self, config: VmConfig) -> Result<(), SupervisorError> {
        self.send(&ToSupervisor::Start(Box::new(config)), None)
    }

    /// Opens a stream to a port of the guest.
    pub fn connect(&self, port: u32) -> Result<UnixStream, SupervisorError> {
        let (ours, theirs) = UnixStream::pair().map_err(SupervisorError::Control)?;
        self.send(&ToSupervisor::Connect { port }, Some(theirs))?;
        Ok(ours)
    }

    /// The next message, before `deadline`.
    pub fn next(&self, deadline: Instant) -> Result<Option<FromSupervisor>, SupervisorError> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.news.recv_timeout(left) {
            Ok(News::Message(message)) => Ok(Some(message)),
            Ok(News::NotUnderstood) => Err(SupervisorError::Language),
            Ok(News::Gone { status, stderr }) => Err(died(status, &stderr)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(died(None, "")),
        }
    }

    /// Waits until the agent is up.
    pub fn wait_until_ready(&self, patience: Duration) -> Result<GuestReady, SupervisorError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.next(deadline)? {
                Some(FromSupervisor::Ready {
                    monotonic_micros,
                    uptime_micros,
                    started_micros,
                    steps,
                }) => {
                    return Ok(GuestReady {
                        monotonic_micros,
                        uptime_micros,
                        started_micros,
                        steps,
                    });
                }
                Some(message) => refuse_end(message)?,
                None => return Err(SupervisorError::Silent(patience)),
            }
        }
    }

    /// Why the VM's streams ended, where it says so at once.
    pub fn why_it_ended(&self) -> Option<SupervisorError> {
        let deadline = Instant::now() + LAST_NEWS;
        loop {
            match self.next(deadline) {
                Ok(Some(message)) => {
                    if let Err(end) = refuse_end(message) {
                        return Some(end);
                    }
                }
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    }

    /// Waits until the VM has ended by itself; `None` when it has not before `patience` was over.
    pub fn wait_until_stopped(&self, patience: Duration) -> Option<StopReason> {
        let deadline = Instant::now() + patience;
        loop {
            match self.next(deadline) {
                Ok(Some(FromSupervisor::Stopped { reason, .. })) => return Some(reason),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn send(
        &self,
        message: &ToSupervisor,
        stream: Option<UnixStream>,
    ) -> Result<(), SupervisorError> {
        let bytes = serde_json::to_vec(message).map_err(|_| SupervisorError::Language)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = stream.as_ref().map(|stream| [stream.as_fd()]);
        if let Some(fds) = &fds {
            // There is room for exactly one.
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        match sendmsg(
            &self.control,
            &[IoSlice::new(&bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Ok(_) => Ok(()),
            // Its last message says why it is gone.
            Err(error) => Err(self
                .why_it_ended()
                .unwrap_or_else(|| SupervisorError::Control(error.into()))),
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.killer.kill();
    }
}

/// A message that ends the VM as an error.
fn refuse_end(message: FromSupervisor) -> Result<(), SupervisorError> {
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
        FromSupervisor::Ready { .. } => Ok(()),
    }
}

fn died(status: Option<ExitStatus>, stderr: &str) -> SupervisorError {
    let how = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("signal {signal}"),
        _ => "no trace".to_owned(),
    };
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    SupervisorError::Died {
        how,
        stderr: last
            .map(|line| format!(": {}", line.trim()))
            .unwrap_or_default(),
    }
}

/// Reads messages until the socket ends, then collects the child.
fn listen(control: &OwnedFd, mut child: Child, tell: &Sender<News>) {
    let stderr = child.stderr.take().map(|mut pipe| {
        thread::spawn(move || {
            let mut tail = Vec::new();
            let mut chunk = [0; 1024];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                tail.extend_from_slice(&chunk[..length]);
                tail.drain(..tail.len().saturating_sub(STDERR_TAIL));
            }
            String::from_utf8_lossy(&tail).into_owned()
        })
    });
    let mut buffer = vec![0; MAX_MESSAGE];
    while let Some(length) = receive(control, &mut buffer) {
        let news = match serde_json::from_slice(&buffer[..length]) {
            Ok(message) => News::Message(message),
            Err(_) => News::NotUnderstood,
        };
        // Whoever listened may have stopped; the child must be collected all the same.
        let _ = tell.send(news);
    }
    // One that has closed its socket and does not end is of no use.
    let _ = child.kill();
    let status = child.wait().ok();
    let stderr = stderr
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    let _ = tell.send(News::Gone { status, stderr });
}

/// The length of the next message; `None` when the socket has ended.
fn receive(control: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    loop {
        let mut nothing = RecvAncillaryBuffer::default();
        match recvmsg(
            control,
            &mut [IoSliceMut::new(buffer)],
            &mut nothing,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Ok(message) if message.bytes > 0 => return Some(message.bytes),
            Err(rustix::io::Errno::INTR) => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_most_is_shown() {
        let panic = "a\n[ 1.0] Kernel panic - not syncing\nCPU: 0\n---[ end ]\n\n";
        assert_eq!(
            telling_line(panic),
            Some("[ 1.0] Kernel panic - not syncing")
        );
        let agent = "x\r\nmicroagent-guest: cannot mount /dev\r\n[ 2.0] reboot: Power down\r\n";
        assert_eq!(
            telling_line(agent),
            Some("microagent-guest: cannot mount /dev")
        );
        assert_eq!(telling_line("a\nb\n \n"), Some("b"));
        assert_eq!(telling_line(""), None);
    }
}
