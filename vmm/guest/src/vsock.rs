//! vsock: accepts sessions from the host and connects to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, getpeername, listen,
    socket,
};
use rustix::net::{SocketFlags, accept_with};

use crate::stream::Stream;

/// The host's context id (virtio 1.2, 5.10.4).
const HOST_CID: u32 = 2;

/// Any local context id (`VMADDR_CID_ANY`).
const ANY_CID: u32 = u32::MAX;

/// The maximum number of sessions that wait to be accepted. The kernel resets further ones at once,
/// so it covers bursts of connections to published ports.
const BACKLOG: Backlog = Backlog::MAXCONN;

/// Accepts sessions from the host.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Listens on `port`. Works before the transport's driver is loaded.
    pub fn bind(port: u32) -> io::Result<Listener> {
        let fd = stream_socket()?;
        bind(fd.as_raw_fd(), &VsockAddr::new(ANY_CID, port))?;
        listen(&fd, BACKLOG)?;
        Ok(Listener(fd))
    }

    /// Waits for the next connection. Returns `None` for one that is not from the host: with the
    /// loopback transport loaded, any guest process could connect and run commands as root.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        let fd = accept_with(self.0.as_fd(), SocketFlags::CLOEXEC)?;
        let peer: VsockAddr = getpeername(fd.as_raw_fd())?;
        Ok((peer.cid() == HOST_CID).then(|| Stream::from(fd)))
    }
}

/// Connects to `port` of the host.
pub fn connect_to_host(port: u32) -> io::Result<Stream> {
    let fd = stream_socket()?;
    connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, port))?;
    Ok(Stream::from(fd))
}

fn stream_socket() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Vsock,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}
