//! Requests to the shim of a workspace.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::dir::WorkspaceDir;
use crate::event::Event;
use crate::lock::is_held;
use crate::result::WorkloadResult;
use crate::shim::protocol::{PacketError, Reply, Request, Stats, Status, VERSION, decode, encode};
use crate::shim::{Holder, receive, send};
use crate::spec::Forward;
use crate::state::State;

/// How long a shim may take to answer what it knows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a VM that is killed may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a VM may take to stop its vCPUs, and to be severed.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a quarantined workspace may take to be captured: its delta is copied.
const CAPTURE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a guest may take to be shut down, and then killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest reason, in bytes; a longer one is cut.
const REASON_LIMIT: usize = 4 << 10;

/// A request could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No shim keeps the workspace, or it has just ended.
    #[error("the workspace is not running")]
    NotRunning,
    /// The shim does not answer.
    #[error("the process that keeps the workspace does not answer")]
    NoAnswer,
    /// The socket failed.
    #[error("cannot talk to the supervisor of the workspace")]
    Io(#[from] io::Error),
    /// The reply cannot be read.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The shim refused.
    #[error("{message}")]
    Refused {
        /// One line: why.
        message: String,
        /// The state that is the reason.
        state: Option<State>,
    },
}

/// Talks to the shim of one workspace.
#[derive(Debug)]
pub struct Client {
    holder: Holder,
}

impl Client {
    /// The client of the workspace in `directory`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`], also while the shim does not listen yet.
    pub fn new(directory: &WorkspaceDir) -> Result<Client, ClientError> {
        if !is_held(&directory.lock())? {
            return Err(ClientError::NotRunning);
        }
        let text = fs::read(directory.lock())?;
        let holder = serde_json::from_slice(&text).map_err(|_| ClientError::NotRunning)?;
        Ok(Client { holder })
    }

    /// The process that keeps the workspace.
    pub fn pid(&self) -> u32 {
        self.holder.pid
    }

    /// Its state.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Request::Status, None, Some(ANSWER_TIMEOUT))? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    /// A stream to a vsock port of the guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(&self, port: u32) -> Result<UnixStream, ClientError> {
        self.open(port, false)
    }

    /// The same, for a question about the guest: the workspace is not in use.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn probe(&self, port: u32) -> Result<UnixStream, ClientError> {
        self.open(port, true)
    }

    fn open(&self, port: u32, probe: bool) -> Result<UnixStream, ClientError> {
        let (ours, theirs) = UnixStream::pair()?;
        let request = Request::Connect { port, probe };
        match self.ask(&request, Some(theirs.into()), Some(ANSWER_TIMEOUT))? {
            Reply::Connected => Ok(ours),
            other => Err(unexpected(other)),
        }
    }

    /// Shuts the guest down, and kills it with `force` if it does not obey. Returns the state after
    /// the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stop(&self, force: bool, reason: Option<String>) -> Result<State, ClientError> {
        let reason = reason.map(shortened);
        self.end(&Request::Stop { force, reason }, Some(STOP_TIMEOUT))
    }

    /// Kills the VM. Returns the state after the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn kill(&self, reason: Option<String>) -> Result<State, ClientError> {
        self.kill_as(reason, false)
    }

    /// Kills the VM of a workspace that has failed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn fail(&self, reason: String) -> Result<State, ClientError> {
        self.kill_as(Some(reason), true)
    }

    fn kill_as(&self, reason: Option<String>, failed: bool) -> Result<State, ClientError> {
        let reason = reason.map(shortened);
        self.end(&Request::Kill { reason, failed }, Some(KILL_TIMEOUT))
    }

    /// Lets a port of the host lead to its guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn publish(&self, forward: &Forward) -> Result<(), ClientError> {
        let request = Request::Publish(forward.clone());
        match self.ask(&request, None, Some(ANSWER_TIMEOUT))? {
            Reply::Published(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Frees a port of the host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn unpublish(&self, forward: &Forward) -> Result<(), ClientError> {
        self.change(&Request::Unpublish(forward.clone()), ANSWER_TIMEOUT)
    }

    /// Stops its vCPUs. Without effect if it is paused.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pause(&self) -> Result<(), ClientError> {
        self.change(&Request::Pause, CHANGE_TIMEOUT)
    }

    /// Lets its vCPUs run again. Without effect if it runs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn resume(&self) -> Result<(), ClientError> {
        self.change(&Request::Resume, CHANGE_TIMEOUT)
    }

    /// Saves the VM, and what its guest has written, into an empty directory. The VM does not run meanwhile.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn snapshot(&self, directory: &Path) -> Result<(), ClientError> {
        let directory = directory.to_owned();
        self.change(&Request::Snapshot { directory }, CAPTURE_TIMEOUT)
    }

    /// Stops its vCPUs, severs the guest from everything, for good, and [captures](crate::quarantine)
    /// the workspace.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn quarantine(&self, reason: Option<String>) -> Result<(), ClientError> {
        let reason = reason.map(shortened);
        let request = Request::Quarantine { reason };
        self.change(&request, CAPTURE_TIMEOUT)
    }

    /// What its VM uses of the host.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stats(&self) -> Result<Stats, ClientError> {
        self.stats_within(CHANGE_TIMEOUT)
    }

    /// What its VM uses of the host, unless it does not answer soon.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn prompt_stats(&self) -> Result<Stats, ClientError> {
        self.stats_within(ANSWER_TIMEOUT)
    }

    fn stats_within(&self, limit: Duration) -> Result<Stats, ClientError> {
        match self.ask(&Request::Stats, None, Some(limit))? {
            Reply::Stats(stats) => Ok(*stats),
            other => Err(unexpected(other)),
        }
    }

    fn change(&self, request: &Request, limit: Duration) -> Result<(), ClientError> {
        match self.ask(request, None, Some(limit))? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::NoAnswer`] after `limit`.
    pub fn wait(&self, limit: Option<Duration>) -> Result<Ended, ClientError> {
        ended(self.ask(&Request::Wait, None, limit)?)
    }

    /// The end, which another call waits for.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pending_end(&self) -> Result<PendingEnd, ClientError> {
        self.send(&Request::Wait, None).map(PendingEnd)
    }

    /// Its last event, and those that follow, as they are recorded.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn subscribe(&self) -> Result<Subscription, ClientError> {
        self.send(&Request::Subscribe, None).map(Subscription)
    }

    fn end(&self, request: &Request, limit: Option<Duration>) -> Result<State, ClientError> {
        ended(self.ask(request, None, limit)?).map(|ended| ended.state)
    }

    fn ask(
        &self,
        request: &Request,
        attached: Option<OwnedFd>,
        limit: Option<Duration>,
    ) -> Result<Reply, ClientError> {
        let socket = self.send(request, attached)?;
        set_socket_timeout(&socket, Timeout::Recv, limit).map_err(io::Error::from)?;
        reply(&socket)
    }

    fn send(&self, request: &Request, attached: Option<OwnedFd>) -> Result<OwnedFd, ClientError> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(io::Error::from)?;
        let address = SocketAddrUnix::new(&self.holder.socket).map_err(io::Error::from)?;
        connect(&socket, &address).map_err(|_| ClientError::NotRunning)?;
        let packet = encode(request, VERSION)?;
        send(&socket, &packet, attached).map_err(|_| ClientError::NotRunning)?;
        Ok(socket)
    }
}

/// How a workspace has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The state after it.
    pub state: State,
    /// How its workload ended, if one has.
    pub result: Option<WorkloadResult>,
}

/// A workspace's end that is waited for. Its descriptor is readable when the workspace has ended.
#[derive(Debug)]
pub struct PendingEnd(OwnedFd);

impl PendingEnd {
    /// How it ended. Waits, unless the descriptor is readable.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if the process that kept the workspace was killed.
    pub fn finish(self) -> Result<Ended, ClientError> {
        ended(reply(&self.0)?)
    }
}

impl AsFd for PendingEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Events as they are recorded. Its descriptor is readable when there is one.
#[derive(Debug)]
pub struct Subscription(OwnedFd);

impl Subscription {
    /// The next event; waits for it. `None` after the last: the workspace has ended, or the process
    /// that kept it was killed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if events were missed, because this was not called for long.
    pub fn next_event(&mut self) -> Result<Option<Event>, ClientError> {
        match reply(&self.0) {
            Ok(Reply::Event(event)) => Ok(Some(*event)),
            Ok(other) => Err(unexpected(other)),
            Err(ClientError::NotRunning) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn ended(reply: Reply) -> Result<Ended, ClientError> {
    match reply {
        Reply::Ended { state, result } => Ok(Ended { state, result }),
        other => Err(unexpected(other)),
    }
}

fn reply(socket: &OwnedFd) -> Result<Reply, ClientError> {
    let received = receive(socket).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => ClientError::NoAnswer,
        _ => ClientError::Io(error),
    })?;
    let (reply, _) = received.ok_or(ClientError::NotRunning)?;
    Ok(decode(&reply)?.1)
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused { message, state } => ClientError::Refused { message, state },
        _ => ClientError::Packet(PacketError::Message),
    }
}

fn shortened(mut reason: String) -> String {
    let end = (0..=REASON_LIMIT.min(reason.len()))
        .rev()
        .find(|&end| reason.is_char_boundary(end));
    reason.truncate(end.unwrap_or_default());
    reason
}
