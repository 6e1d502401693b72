//! The caller's end of the control socket, for unit tests.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use microagent_proto::control::{FromSupervisor, MAX_MESSAGE, decode};
use microagent_proto::envelope::Program;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags,
    SocketType, recv, recvmsg, send, socketpair,
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

impl Caller {
    /// The next message that has arrived, and the stream that is attached to it.
    pub(super) fn received_with_stream(&self) -> Option<(FromSupervisor, Option<UnixStream>)> {
        let mut packet = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut packet)],
            &mut ancillary,
            flags,
        );
        let packet = packet.get(..length.ok()?.bytes)?;
        let stream = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let message = decode(packet, Program::CommandLine, Program::Supervisor).unwrap();
        Some((message, stream.map(UnixStream::from)))
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
