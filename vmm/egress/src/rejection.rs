//! Answers to packets that were refused, so that the guest's programs fail at once and not after a
//! timeout.

use std::net::IpAddr;

use crate::filter::GuestFrame;
use crate::packet::{self, Content, Frame, Packet, Segment, protocol};
use crate::reason::Reason;

/// How much of a packet an ICMP error contains at most: of IPv4 the header and 8 bytes, of IPv6 as
/// much, since more tells the guest nothing new.
const QUOTED: usize = 8;
/// Types and codes of ICMP for "communication administratively prohibited".
const PROHIBITED: [u8; 2] = [3, 13];
const PROHIBITED_6: [u8; 2] = [1, 1];
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const HOP_LIMIT: u8 = 64;

/// The answer to a frame that the filter has dropped for this reason, in the name of the host that it
/// was sent to: a TCP reset, or an ICMP error. `None` if no answer is due: the frame is not one that
/// rules decide about, is itself a reset or an error, or was not sent to one host.
pub fn rejection(frame: &GuestFrame<'_>, reason: Reason) -> Option<Vec<u8>> {
    if !is_answered(reason) {
        return None;
    }
    let parsed = packet::parse(frame.bytes, frame.len).ok()?;
    let Content::Ip(packet) = &parsed.content else {
        return None;
    };
    if parsed.destination[0] & 1 != 0
        || packet.destination.is_multicast()
        || packet.fragment.is_some()
    {
        return None;
    }
    let answer = match packet.protocol {
        protocol::TCP => reset(packet, &packet.tcp().ok()?)?,
        protocol::UDP => prohibited(frame.bytes, packet),
        protocol::ICMP | protocol::ICMPV6 if is_echo_request(packet) => {
            prohibited(frame.bytes, packet)
        }
        _ => return None,
    };
    Some(wrap(&parsed, packet, answer))
}

/// Whether the guest may know that a frame was dropped for this reason: rules, not attacks.
fn is_answered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Metadata
            | Reason::Rule
            | Reason::NoRule
            | Reason::AmbiguousName
            | Reason::ServerName
            | Reason::ClientHello
            | Reason::HoldLimit
            | Reason::Quic
            | Reason::NoConnection
            | Reason::Dns
            | Reason::EncryptedDns
    )
}

fn is_echo_request(packet: &Packet<'_>) -> bool {
    let request = if packet.source.is_ipv4() { 8 } else { 128 };
    packet.icmp().is_ok_and(|(kind, _)| kind == request)
}

/// A reset that is valid for the segment (RFC 9293, section 3.10.7.1).
fn reset(packet: &Packet<'_>, segment: &Segment<'_>) -> Option<(u8, Vec<u8>)> {
    let flags = segment.flags;
    if flags.rst() {
        return None;
    }
    let (sequence, acknowledgment, answer) = if flags.ack() {
        (segment.acknowledgment, 0, RST)
    } else {
        let length = u32::try_from(segment.data_len).ok()?;
        let length = length + u32::from(flags.syn()) + u32::from(flags.fin());
        (0, segment.sequence.wrapping_add(length), RST | ACK)
    };
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(segment.destination_port.to_be_bytes());
    bytes.extend(segment.source_port.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledgment.to_be_bytes());
    bytes.extend([5 << 4, answer, 0, 0, 0, 0, 0, 0]);
    let sum = checksum(&[&pseudo_header(packet, protocol::TCP, bytes.len()), &bytes]);
    put(&mut bytes, 16, sum);
    Some((protocol::TCP, bytes))
}

fn prohibited(frame: &[u8], packet: &Packet<'_>) -> (u8, Vec<u8>) {
    let ip = frame.get(packet::ETHERNET..).unwrap_or(&[]);
    let (kind, number, header) = match packet.source {
        IpAddr::V4(_) => (PROHIBITED, protocol::ICMP, 20),
        IpAddr::V6(_) => (PROHIBITED_6, protocol::ICMPV6, 40),
    };
    let mut bytes = kind.to_vec();
    bytes.extend([0; 6]);
    bytes.extend(ip.iter().take(header + QUOTED));
    let sum = match packet.source {
        IpAddr::V4(_) => checksum(&[&bytes]),
        IpAddr::V6(_) => checksum(&[&pseudo_header(packet, number, bytes.len()), &bytes]),
    };
    put(&mut bytes, 2, sum);
    (number, bytes)
}

/// An IP packet to the guest in an Ethernet frame.
fn wrap(frame: &Frame<'_>, packet: &Packet<'_>, (number, payload): (u8, Vec<u8>)) -> Vec<u8> {
    let length = payload.len();
    let mut bytes = Vec::with_capacity(packet::ETHERNET + 40 + length);
    bytes.extend(frame.source);
    bytes.extend(frame.destination);
    match (packet.destination, packet.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([0x08, 0x00]);
            let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, number, 0, 0].to_vec();
            header.extend(from.octets());
            header.extend(to.octets());
            let total = header.len() + length;
            put(&mut header, 2, low(total));
            let sum = checksum(&[&header]);
            put(&mut header, 10, sum);
            bytes.extend(header);
        }
        (from, to) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend(low(length).to_be_bytes());
            bytes.extend([number, HOP_LIMIT]);
            bytes.extend(octets(from));
            bytes.extend(octets(to));
        }
    }
    bytes.extend(payload);
    bytes
}

/// What checksums of TCP and ICMPv6 cover beside the packet's payload, from the host to the guest.
fn pseudo_header(packet: &Packet<'_>, number: u8, length: usize) -> Vec<u8> {
    let mut bytes = octets(packet.destination);
    bytes.extend(octets(packet.source));
    // The same sum as with the other layout of IPv4.
    bytes.extend([0, number]);
    bytes.extend(low(length).to_be_bytes());
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A length, which is at most that of a header and a quotation.
fn low(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    for (to, from) in bytes.iter_mut().skip(at).zip(number.to_be_bytes()) {
        *to = from;
    }
}

/// The Internet checksum of parts of even length, but for the last (RFC 1071).
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|word| match *word {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !low(((folded & 0xffff) + (folded >> 16)) as usize)
}
