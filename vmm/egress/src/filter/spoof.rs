//! What no guest may send, whatever its policy: frames that use the addresses of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address;
use crate::guest::Guest;
use crate::packet::{Arp, Fragment, Frame, Packet, protocol};
use crate::reason::Reason;

/// Types of ICMP messages.
pub(super) mod icmp {
    pub(in super::super) const ECHO_REPLY: u8 = 0;
    pub(in super::super) const UNREACHABLE: u8 = 3;
    pub(in super::super) const REDIRECT: u8 = 5;
    pub(in super::super) const ECHO_REQUEST: u8 = 8;
    pub(in super::super) const ROUTER_ADVERTISEMENT: u8 = 9;
    pub(in super::super) const TIME_EXCEEDED: u8 = 11;
    pub(in super::super) const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of ICMPv6 messages.
pub(super) mod icmpv6 {
    pub(in super::super) const UNREACHABLE: u8 = 1;
    pub(in super::super) const TOO_BIG: u8 = 2;
    pub(in super::super) const TIME_EXCEEDED: u8 = 3;
    pub(in super::super) const PARAMETER_PROBLEM: u8 = 4;
    pub(in super::super) const ECHO_REQUEST: u8 = 128;
    pub(in super::super) const ECHO_REPLY: u8 = 129;
    pub(in super::super) const LISTENER_QUERY: u8 = 130;
    pub(in super::super) const LISTENER_REPORT: u8 = 131;
    pub(in super::super) const LISTENER_DONE: u8 = 132;
    pub(in super::super) const ROUTER_SOLICITATION: u8 = 133;
    pub(in super::super) const ROUTER_ADVERTISEMENT: u8 = 134;
    pub(in super::super) const NEIGHBOR_SOLICITATION: u8 = 135;
    pub(in super::super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
    pub(in super::super) const REDIRECT: u8 = 137;
    pub(in super::super) const LISTENER_REPORT_2: u8 = 143;
}

/// Options of neighbour discovery that tell a hardware address: the sender's, the target's.
const LINK_ADDRESS_OPTIONS: [u8; 2] = [1, 2];
/// Ports of DHCP: server and client, for IPv4 and IPv6.
pub(super) const DHCP_PORTS: [u16; 4] = [67, 68, 546, 547];
const DHCP_SERVER: [(u16, u16); 2] = [(67, 68), (547, 546)];
const DHCP_CLIENT: (u16, u16) = (68, 67);

/// Checks the sender of a frame.
pub(super) fn check_link(guest: &Guest, frame: &Frame<'_>) -> Result<(), Reason> {
    if frame.source == guest.mac {
        Ok(())
    } else {
        Err(Reason::SourceMac)
    }
}

/// Checks on whose behalf an ARP packet speaks.
pub(super) fn check_arp(guest: &Guest, arp: &Arp) -> Result<(), Reason> {
    // A probe asks whether an address is free, before the guest has it (RFC 5227).
    let is_probe = arp.is_request && arp.sender.is_unspecified();
    if arp.sender_mac == guest.mac && (guest.owns(arp.sender.into()) || is_probe) {
        Ok(())
    } else {
        Err(Reason::Arp)
    }
}

/// Checks the addresses of a packet, and on whose behalf its message speaks.
pub(super) fn check_packet(guest: &Guest, packet: &Packet<'_>) -> Result<(), Reason> {
    let is_first = packet.fragment.is_none_or(Fragment::is_first);
    let icmpv6 = match packet.protocol {
        protocol::ICMPV6 if packet.source.is_ipv6() && is_first => Some(packet.icmp()?.0),
        _ => None,
    };
    let ports = match packet.protocol {
        protocol::UDP if is_first => Some(packet.udp()?),
        _ => None,
    };
    let is_source_valid = guest.owns(packet.source)
        || match packet.source {
            // A guest without an address asks for one. Nobody else is 0.0.0.0.
            IpAddr::V4(source) => {
                source == Ipv4Addr::UNSPECIFIED
                    && packet.destination == IpAddr::V4(Ipv4Addr::BROADCAST)
                    && ports == Some(DHCP_CLIENT)
            }
            // Duplicate address detection (RFC 4862), and the reports that precede it.
            IpAddr::V6(source) => {
                source == Ipv6Addr::UNSPECIFIED
                    && matches!(
                        icmpv6,
                        Some(
                            icmpv6::NEIGHBOR_SOLICITATION
                                | icmpv6::ROUTER_SOLICITATION
                                | icmpv6::LISTENER_REPORT
                                | icmpv6::LISTENER_REPORT_2
                        )
                    )
            }
        };
    if !is_source_valid {
        return Err(Reason::SourceAddress);
    }
    if address::is_never_on_a_link(packet.destination.into()) {
        return Err(Reason::Destination);
    }
    if ports.is_some_and(|ports| DHCP_SERVER.contains(&ports)) {
        return Err(Reason::Dhcp);
    }
    if packet.protocol == protocol::ICMP && packet.source.is_ipv4() && is_first {
        let (kind, _) = packet.icmp()?;
        if matches!(kind, icmp::REDIRECT | icmp::ROUTER_ADVERTISEMENT) {
            return Err(Reason::NeighborDiscovery);
        }
    }
    match icmpv6 {
        Some(kind) => check_icmpv6(guest, packet, kind),
        None => Ok(()),
    }
}

fn check_icmpv6(guest: &Guest, packet: &Packet<'_>, kind: u8) -> Result<(), Reason> {
    if !(icmpv6::ROUTER_SOLICITATION..=icmpv6::REDIRECT).contains(&kind) {
        return Ok(());
    }
    // Not all receivers ignore them, although RFC 6980 demands it.
    if packet.fragment.is_some() {
        return Err(Reason::Fragment);
    }
    let is_own = match kind {
        icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT => false,
        icmpv6::NEIGHBOR_ADVERTISEMENT => {
            let target = target(packet).ok_or(Reason::Malformed)?;
            guest.owns(target.into()) && options_are_own(guest, packet, 24)
        }
        icmpv6::NEIGHBOR_SOLICITATION => options_are_own(guest, packet, 24),
        _ => options_are_own(guest, packet, 8),
    };
    if is_own {
        Ok(())
    } else {
        Err(Reason::NeighborDiscovery)
    }
}

/// The target of a neighbour solicitation or advertisement.
pub(super) fn target(packet: &Packet<'_>) -> Option<Ipv6Addr> {
    let address: [u8; 16] = *packet.payload.get(8..)?.first_chunk()?;
    Some(address.into())
}

/// Whether the hardware addresses in the options, which begin at `start`, are the guest's. All of
/// the options must be at hand.
fn options_are_own(guest: &Guest, packet: &Packet<'_>, start: usize) -> bool {
    if packet.payload.len() < packet.payload_len {
        return false;
    }
    let Some(mut options) = packet.payload.get(start..) else {
        return false;
    };
    while let [kind, length, ..] = *options {
        let length = usize::from(length) * 8;
        let Some((option, rest)) = options.split_at_checked(length) else {
            return false;
        };
        // A length of zero would never end.
        let Some(value) = option.get(2..) else {
            return false;
        };
        if LINK_ADDRESS_OPTIONS.contains(&kind) && value != guest.mac {
            return false;
        }
        options = rest;
    }
    options.is_empty()
}
