//! Requests of rtnetlink(7): one message, one acknowledgement.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, socket,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: nobody else is on the link, and it takes a second.
const IFA_F_NODAD: u8 = 2;
const RTA_GATEWAY: u16 = 5;
const RTA_OIF: u16 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A socket for requests.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one.
    pub fn open() -> io::Result<Netlink> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink(fd))
    }

    /// Brings an interface up, with this MTU if there is one.
    pub fn link_up(&self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        self.request(&link_up(index, mtu))
    }

    /// Takes an interface down.
    pub fn link_down(&self, index: u32) -> io::Result<()> {
        self.request(&link_down(index))
    }

    /// Gives an interface that is down this hardware address.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.request(&set_mac(index, mac))
    }

    /// Adds an address to an interface.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.request(&new_address(index, address, prefix))
    }

    /// Removes an address from an interface.
    pub fn remove_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.request(&old_address(index, address, prefix))
    }

    /// Adds a default route.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        self.request(&default_route(index, gateway))
    }

    fn request(&self, message: &Message) -> io::Result<()> {
        send(&self.0, &message.0, SendFlags::empty())?;
        let mut answer = [0u8; 256];
        let (length, _) = recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        match ack_error(answer.get(..length).unwrap_or_default()) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// `struct ifinfomsg` of an interface: family and type unspecified, no flag changed.
fn interface(index: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

fn set_mac(index: u32, mac: [u8; 6]) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &interface(index));
    message.attribute(IFLA_ADDRESS, &mac);
    message.finished()
}

fn link_up(index: u32, mtu: Option<u32>) -> Message {
    let mut body = interface(index);
    body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    let mut message = Message::new(RTM_NEWLINK, 0, &body);
    if let Some(mtu) = mtu {
        message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    message.finished()
}

fn link_down(index: u32) -> Message {
    let mut body = interface(index);
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    Message::new(RTM_NEWLINK, 0, &body).finished()
}

fn new_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let create = NLM_F_CREATE | NLM_F_REPLACE;
    address_message(RTM_NEWADDR, create, (index, address, prefix), flags)
}

fn old_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    address_message(RTM_DELADDR, 0, (index, address, prefix), 0)
}

/// `kind` of an address: interface, address, length of the prefix.
fn address_message(
    kind: u16,
    message_flags: u16,
    (index, address, prefix): (u32, IpAddr, u8),
    flags: u8,
) -> Message {
    let (family, octets) = octets(address);
    // `struct ifaddrmsg`.
    let mut body = [family, prefix, flags, 0, 0, 0, 0, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, message_flags, &body);
    message.attribute(IFA_LOCAL, &octets);
    message.attribute(IFA_ADDRESS, &octets);
    message.finished()
}

fn default_route(index: u32, gateway: IpAddr) -> Message {
    let (family, octets) = octets(gateway);
    // `struct rtmsg`: a destination of no bits.
    let mut body = [0; 12];
    body[0] = family;
    body[4] = RT_TABLE_MAIN;
    body[5] = RTPROT_BOOT;
    body[7] = RTN_UNICAST;
    let mut message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body);
    message.attribute(RTA_GATEWAY, &octets);
    message.attribute(RTA_OIF, &index.to_ne_bytes());
    message.finished()
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// A message: header, a structure of the family, attributes. Sequence number and sender are 0.
#[derive(Debug, PartialEq, Eq)]
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    /// Appends an attribute; all of ours are whole numbers of four bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = 4 + value.len() as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        // `NLMSG_ALIGN`.
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finished(mut self) -> Message {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self
    }
}

/// The error number of an acknowledgement (0 for success, negative otherwise); `None` for other
/// messages.
fn ack_error(message: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_unrelated_message_is_not_an_acknowledgement() {
        assert_eq!(ack_error(&[]), None);
        assert_eq!(ack_error(&[0; 19]), None);
        assert_eq!(ack_error(&[0; 20]), None);
    }

    #[test]
    fn the_messages_are_those_that_ip_sends() {
        // strace -e write=all ip addr add 10.0.2.15/24 dev (3), without the sequence number and
        // the broadcast address.
        let expected = [
            &[40, 0, 0, 0, 20, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 24, 0, 0, 3, 0, 0, 0],
            &[8, 0, 2, 0, 10, 0, 2, 15],
            &[8, 0, 1, 0, 10, 0, 2, 15],
        ]
        .concat();
        let message = new_address(3, IpAddr::from([10, 0, 2, 15]), 24);
        assert_eq!(message.0, expected);
        // ip addr del 10.0.2.15/24 dev (3).
        let message = old_address(3, IpAddr::from([10, 0, 2, 15]), 24);
        let deleted = [&expected[..4], &[21, 0, 5, 0], &expected[8..]].concat();
        assert_eq!(message.0, deleted);
        // ip link set dev (1) down.
        let expected = [
            &[32, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0],
        ]
        .concat();
        assert_eq!(link_down(1).0, expected);
        // ip link set dev (1) address 02:00:00:00:00:01.
        let expected = [
            &[44, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0],
        ]
        .concat();
        assert_eq!(set_mac(1, [2, 0, 0, 0, 0, 1]).0, expected);
        // ip route add default via 10.0.2.2 dev (3).
        let expected = [
            &[44, 0, 0, 0, 24, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
            &[8, 0, 5, 0, 10, 0, 2, 2],
            &[8, 0, 4, 0, 3, 0, 0, 0],
        ]
        .concat();
        assert_eq!(default_route(3, IpAddr::from([10, 0, 2, 2])).0, expected);
    }
}
