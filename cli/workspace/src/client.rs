//! Requests to the shim of a workspace.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::dir::WorkspaceDir;
use crate::lock::is_held;
use crate::shim::protocol::{PacketError, Reply, Request, Status, VERSION, decode, encode};
use crate::shim::{Holder, receive, send};
use crate::state::State;

/// A request could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No shim keeps the workspace, or it has just ended.
    #[error("the workspace is not running")]
    NotRunning,
    /// The socket failed.
    #[error("cannot talk to the supervisor of the workspace")]
    Io(#[from] io::Error),
    /// The reply cannot be read.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The shim refused.
    #[error("{0}")]
    Refused(String),
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
        match self.ask(&Request::Status, None)? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected(other)),
        }
    }

    /// A stream to a vsock port of the guest.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(&self, port: u32) -> Result<UnixStream, ClientError> {
        let (ours, theirs) = UnixStream::pair()?;
        match self.ask(&Request::Connect { port }, Some(theirs.into()))? {
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
        self.end(&Request::Stop { force, reason })
    }

    /// Kills the VM. Returns the state after the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn kill(&self, reason: Option<String>) -> Result<State, ClientError> {
        self.end(&Request::Kill { reason })
    }

    /// Waits for the end. Returns the state after it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait(&self) -> Result<State, ClientError> {
        self.end(&Request::Wait)
    }

    fn end(&self, request: &Request) -> Result<State, ClientError> {
        match self.ask(request, None)? {
            Reply::Ended { state } => Ok(state),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&self, request: &Request, attached: Option<OwnedFd>) -> Result<Reply, ClientError> {
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
        let (reply, _) = receive(&socket)?.ok_or(ClientError::NotRunning)?;
        Ok(decode(&reply)?.1)
    }
}

fn unexpected(reply: Reply) -> ClientError {
    match reply {
        Reply::Refused { message } => ClientError::Refused(message),
        _ => ClientError::Packet(PacketError::Message),
    }
}
