//! Netlink sockets (`netlink(7)`): requests that the kernel answers before it returns from `send`.
//!
//! The answers are read from the same socket, so reading never waits for anybody.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use nix::libc;
use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The kernel sends no more in one datagram (`NLMSG_GOODSIZE`, or 32 KiB in a dump).
const DATAGRAM: usize = 64 << 10;

/// How often a dump is repeated that the kernel could not make of one state.
const DUMPS: usize = 8;

/// A message: a fixed structure of the protocol, then attributes.
#[derive(Debug, Clone)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    pub(super) fn new(kind: u16, flags: u16, structure: &[u8]) -> Message {
        Message {
            kind,
            flags,
            body: structure.to_vec(),
        }
    }

    pub(super) fn with(mut self, attributes: &Attributes) -> Message {
        self.body.extend_from_slice(&attributes.0);
        self
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Message, Infallible> {
        Ok(Message::new(header.message_type, header.flags, payload))
    }
}

/// Attributes as they are in a message.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn new() -> Attributes {
        Attributes::default()
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Attributes {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let start = self.0.len();
        self.0.resize(start + attribute.buffer_len(), 0);
        attribute.emit(&mut self.0[start..]);
        self
    }

    /// A number in the byte order of the host.
    pub(super) fn number(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order.
    pub(super) fn number_be(self, kind: u16, value: u32) -> Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn string(self, kind: u16, value: &str) -> Attributes {
        let mut value = value.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(super) fn nested(self, kind: u16, inner: &Attributes) -> Attributes {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }
}

/// An answer: the structure of the protocol, and the attributes after it.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// The first `N` bytes: the structure, or its beginning.
    pub(super) fn structure<const N: usize>(&self) -> Option<[u8; N]> {
        self.0.first_chunk().copied()
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The attribute of this kind after a structure of `skip` bytes.
    pub(super) fn attribute(&self, skip: usize, kind: u16) -> Option<&[u8]> {
        attribute(self.0.get(skip..)?, kind)
    }
}

/// The value of the attribute of this kind.
pub(super) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)?;
    let len = usize::from(found.length());
    found.into_inner().get(NLA_HEADER_SIZE..len)
}

/// A socket that becomes readable whenever an interface of this network namespace changes. Reading
/// does not wait.
pub(super) fn link_events() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    let groups = libc::RTMGRP_LINK.cast_unsigned();
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// A socket of the protocol; without one, of `NETLINK_ROUTE`, which is 0.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Netlink> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // The kernel chooses the address.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// The socket, which the kernel may take for the owner of what was requested over it.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// A request that is done or fails.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.batch(vec![message], 0)
    }

    /// Requests in one datagram, the last of which but `after` is acknowledged.
    pub(super) fn batch(&mut self, messages: Vec<Message>, after: usize) -> io::Result<()> {
        let Some(last) = messages.len().checked_sub(after + 1) else {
            return Ok(());
        };
        let mut datagram = Vec::new();
        let mut awaited = 0;
        for (index, mut message) in messages.into_iter().enumerate() {
            message.flags |= NLM_F_REQUEST;
            if index == last {
                message.flags |= NLM_F_ACK;
                awaited = self.sequence.wrapping_add(1);
            }
            self.append(&mut datagram, message);
        }
        self.send(&datagram)?;
        self.receive(awaited, |_| {})?;
        Ok(())
    }

    /// The one answer to a request.
    pub(super) fn get(&mut self, mut message: Message) -> io::Result<Answer> {
        message.flags |= NLM_F_REQUEST | NLM_F_ACK;
        let mut answer = None;
        let mut datagram = Vec::new();
        let sequence = self.append(&mut datagram, message);
        self.send(&datagram)?;
        self.receive(sequence, |body| answer = Some(Answer(body)))?;
        answer.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// All answers to a request.
    pub(super) fn dump(&mut self, mut message: Message) -> io::Result<Vec<Answer>> {
        message.flags |= NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = Vec::new();
        for _ in 0..DUMPS {
            answers.clear();
            let mut datagram = Vec::new();
            let sequence = self.append(&mut datagram, message.clone());
            self.send(&datagram)?;
            let consistent = self.receive(sequence, |body| answers.push(Answer(body)))?;
            if consistent {
                break;
            }
        }
        Ok(answers)
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: Message) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = message.flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..]);
        self.sequence
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let kernel = SocketAddrNetlink::new(0, 0);
        let send = || rustix::net::sendto(&self.socket, datagram, SendFlags::empty(), &kernel);
        retry_on_intr(send)?;
        Ok(())
    }

    /// Reads to the acknowledgement of the message `awaited`, the end of a dump or the first error.
    /// Returns whether the answers describe one state.
    fn receive(&self, awaited: u32, mut answer: impl FnMut(Vec<u8>)) -> io::Result<bool> {
        let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        let mut buffer = vec![0; DATAGRAM];
        let mut consistent = true;
        loop {
            let receive = || rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC);
            let (_, len) = retry_on_intr(receive)?;
            let mut datagram = buffer
                .get(..len)
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            while !datagram.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(datagram).map_err(invalid)?;
                let (header, payload) = message.into_parts();
                consistent &= header.flags & NLM_F_DUMP_INTR == 0;
                match payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) if header.sequence_number == awaited => {
                        return Ok(consistent);
                    }
                    NetlinkPayload::Done(done) if header.sequence_number == awaited => {
                        return match done.code {
                            0 => Ok(consistent),
                            code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                        };
                    }
                    NetlinkPayload::InnerMessage(message) if header.sequence_number == awaited => {
                        answer(message.body);
                    }
                    _ => {}
                }
                let len = (header.length as usize).next_multiple_of(4);
                datagram = datagram.get(len..).unwrap_or_default();
            }
        }
    }
}
