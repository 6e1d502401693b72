//! The loopback interface, the only interface that the agent configures, and what container engines
//! allow every user.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, socket,
};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The loopback's index: the kernel creates it first in every network namespace.
const LOOPBACK: i32 = 1;

const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;

/// Docker's defaults: every user may bind ports below 1024 and send ICMP echo requests.
const SYSCTLS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Sets Docker's defaults for unprivileged users.
pub fn allow_unprivileged() -> io::Result<()> {
    for (path, value) in SYSCTLS {
        std::fs::write(path, value)?;
    }
    Ok(())
}

/// `struct nlmsghdr` and `struct ifinfomsg` of rtnetlink(7), 16 bytes each.
const REQUEST: usize = 32;

/// Brings the loopback interface up; the kernel then assigns 127.0.0.1 and ::1.
pub fn bring_loopback_up() -> io::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(&fd, &link_up(LOOPBACK), SendFlags::empty())?;
    let mut answer = [0u8; 256];
    let (length, _) = recv(&fd, &mut answer[..], RecvFlags::empty())?;
    match ack_error(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn link_up(index: i32) -> [u8; REQUEST] {
    let mut message = [0; REQUEST];
    message[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // Sequence number, sender, family and device type are 0.
    message[20..24].copy_from_slice(&index.to_ne_bytes());
    message[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    message[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    message
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
    fn the_loopback_is_up_after_the_request() {
        // On a machine that runs tests the loopback is already up; the kernel must accept the
        // request.
        match bring_loopback_up() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(1), "{error}"),
        }
        let flags = std::fs::read_to_string("/sys/class/net/lo/flags").unwrap();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(flags & IFF_UP, IFF_UP);
    }

    #[test]
    fn a_short_or_unrelated_message_is_not_an_acknowledgement() {
        assert_eq!(ack_error(&[]), None);
        assert_eq!(ack_error(&[0; 19]), None);
        assert_eq!(ack_error(&[0; 20]), None);
    }
}
