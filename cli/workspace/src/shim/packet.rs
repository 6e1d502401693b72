//! Packets of a `SOCK_SEQPACKET` socket, with at most one descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use microagent_proto::control::MAX_MESSAGE;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};

/// Sends a packet.
///
/// # Errors
/// Those of the socket.
pub fn send(socket: &OwnedFd, packet: &[u8], attached: Option<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = attached.as_ref().map(|attached| [attached.as_fd()]);
    if let Some(descriptors) = &descriptors {
        // The buffer has room for exactly one.
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        match sendmsg(
            socket,
            &[IoSlice::new(packet)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        ) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Receives a packet and the descriptor attached to it. `None` at the end of the stream.
///
/// # Errors
/// Those of the socket; `WouldBlock` after its timeout.
pub fn receive(socket: &OwnedFd) -> io::Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    // Most packets are short, and their buffers are cleared.
    let peek = || recv(socket, &mut [0; 0], RecvFlags::PEEK | RecvFlags::TRUNC);
    let waiting = match retry_on_intr(peek) {
        Err(Errno::CONNRESET) => return Ok(None),
        peeked => peeked?.1,
    };
    let mut packet = vec![0; waiting.min(MAX_MESSAGE)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut packet)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            received => break received?.bytes,
        }
    };
    let mut attached = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            attached = descriptors.last();
        }
    }
    packet.truncate(length);
    Ok((length > 0).then_some((packet, attached)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    #[test]
    fn packets_of_every_length_arrive_with_their_descriptors_until_the_end() {
        let (here, there) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "attached").unwrap();
        for length in [1, 100, MAX_MESSAGE - 1, MAX_MESSAGE] {
            let packet: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let file = File::open(text.path()).unwrap();
            send(&here, &packet, Some(file.into())).unwrap();
            send(&here, &packet[..1], None).unwrap();
            let (received, attached) = receive(&there).unwrap().unwrap();
            assert!(received == packet, "{length}");
            let mut content = String::new();
            (File::from(attached.unwrap()).read_to_string(&mut content)).unwrap();
            assert_eq!(content, "attached");
            let (received, attached) = receive(&there).unwrap().unwrap();
            assert_eq!(received, packet[..1]);
            assert!(attached.is_none());
        }
        // What is too long is cut, and refused where it is decoded.
        send(&here, &vec![7; MAX_MESSAGE + 1], None).unwrap();
        let (received, _) = receive(&there).unwrap().unwrap();
        assert_eq!(received, vec![7; MAX_MESSAGE]);
        drop(here);
        assert!(receive(&there).unwrap().is_none());
    }
}
