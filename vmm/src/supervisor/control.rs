//! The control socket: an envelope and one JSON message per packet, with a file descriptor attached
//! to some.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use microagent_proto::control::{
    FromSupervisor, MAX_MESSAGE, PacketError, ToSupervisor, decode, encode,
};
use microagent_proto::envelope::{Mismatch, Program};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType, recvmsg, send, sendmsg,
};

/// Why the control socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Standard input is not a `SOCK_SEQPACKET` socket: the program was not started by microagent.
    #[error("microagent-supervisor must be started by microagent")]
    NotASocket,
    /// An operation on the socket failed.
    #[error("control socket error")]
    Io(#[from] io::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The peer uses another version of the protocol.
    #[error(transparent)]
    Version(Mismatch),
    /// A message is not valid JSON of a known message.
    #[error("the control message cannot be parsed")]
    Message(#[from] serde_json::Error),
    /// The first message was not `Start`.
    #[error("the first control message is not Start")]
    NotStart,
    /// A message that is not allowed in this state, or lacks its descriptor.
    #[error("unexpected control message")]
    Unexpected,
}

impl From<PacketError> for ControlError {
    fn from(error: PacketError) -> Self {
        match error {
            PacketError::Version(mismatch) => ControlError::Version(mismatch),
            PacketError::Message(error) => ControlError::Message(error),
        }
    }
}

impl From<rustix::io::Errno> for ControlError {
    fn from(error: rustix::io::Errno) -> Self {
        ControlError::Io(error.into())
    }
}

/// The supervisor's end of the control socket. Sends and receives may come from several threads.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// Takes the socket from standard input and leaves `/dev/null` there.
    ///
    /// # Errors
    /// [`ControlError::NotASocket`] when standard input is something else.
    pub fn from_stdin() -> Result<Control, ControlError> {
        let stdin = io::stdin();
        match rustix::net::sockopt::socket_type(&stdin) {
            Ok(SocketType::SEQPACKET) => {}
            _ => return Err(ControlError::NotASocket),
        }
        let socket = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Control { socket })
    }

    /// A control socket that is already open.
    pub fn new(socket: OwnedFd) -> Control {
        Control { socket }
    }

    /// The descriptor to poll for messages.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn try_clone(&self) -> Result<Control, ControlError> {
        Ok(Control {
            socket: self.socket.try_clone()?,
        })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the peer has closed its end.
    pub fn send(&self, message: &FromSupervisor) -> Result<(), ControlError> {
        let bytes = encode(message)?;
        loop {
            match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result.map(|_| ())?),
            }
        }
    }

    /// Sends one message, with a stream socket attached if there is one, if the peer has room for it
    /// now.
    ///
    /// # Errors
    /// When it has none, or has closed its end.
    pub fn try_send(
        &self,
        message: &FromSupervisor,
        stream: Option<&UnixStream>,
    ) -> Result<(), ControlError> {
        let bytes = encode(message)?;
        let descriptors = stream.map(|stream| [stream.as_fd()]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(descriptors) = &descriptors {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, flags)?;
        Ok(())
    }

    /// Waits for one message and the descriptor attached to it, if any. `None` when the peer has
    /// closed its end.
    ///
    /// # Errors
    /// When the socket fails, the message is invalid, or the peer uses another version.
    pub fn receive(&self) -> Result<Option<(ToSupervisor, Option<OwnedFd>)>, ControlError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut buffer)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                // A peer that exits with unread messages in its queue resets the socket.
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                result => break result?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptor = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptor = descriptors.last();
            }
        }
        let packet = &buffer[..received.bytes];
        let message = decode(packet, Program::Supervisor, Program::CommandLine)?;
        Ok(Some((message, descriptor)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use microagent_proto::VERSION;
    use microagent_proto::envelope::envelope;

    use super::*;
    use crate::supervisor::testing::Caller;

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        let (caller, control) = Caller::connected();
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [theirs.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let packet = encode(&ToSupervisor::Connect { port: 7 }).unwrap();
        sendmsg(
            &caller,
            &[IoSlice::new(&packet)],
            &mut ancillary,
            SendFlags::empty(),
        )
        .unwrap();
        let (message, socket) = control.receive().unwrap().unwrap();
        assert_eq!(message, ToSupervisor::Connect { port: 7 });
        let mut socket = UnixStream::from(socket.unwrap());
        socket.write_all(b"x").unwrap();
        let mut byte = [0];
        mine.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_closed_socket_is_the_end_and_an_unknown_message_an_error() {
        let (caller, control) = Caller::connected();
        let mut packet = envelope(VERSION).to_vec();
        packet.extend(b"{}");
        caller.send(&packet);
        assert!(matches!(control.receive(), Err(ControlError::Message(_))));
        drop(caller);
        assert!(control.receive().unwrap().is_none());
    }
}
