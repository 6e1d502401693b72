//! The caller's end of the control socket, for unit tests.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use microagent_proto::control::{FromSupervisor, MAX_MESSAGE, decode};
use microagent_proto::envelope::Program;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::Control;

/// Stands for the command line. Dropping it closes the connection.
pub(super) struct Caller(OwnedFd);

impl Caller {
    /// A caller, and the supervisor's end of its control socket.
    pub(super) fn connected() -> (Caller, Control) {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Caller(near), Control::new(far))
    }

    /// Sends a packet as it is.
    pub(super) fn send(&self, packet: &[u8]) {
        send(&self.0, packet, SendFlags::empty()).unwrap();
    }

    /// The next message that has arrived; `None` if there is none.
    pub(super) fn received(&self) -> Option<FromSupervisor> {
        let mut packet = vec![0; MAX_MESSAGE];
        let (length, _) = recv(&self.0, &mut packet[..], RecvFlags::DONTWAIT).ok()?;
        let packet = packet.get(..length).filter(|packet| !packet.is_empty())?;
        Some(decode(packet, Program::CommandLine, Program::Supervisor).unwrap())
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
