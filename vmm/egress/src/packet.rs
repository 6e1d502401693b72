//! The headers of an Ethernet frame, of which only the beginning may be at hand.
//!
//! The parsers of common crates require whole packets; a frame with segmentation offload has up to
//! 64 KiB, and only its headers are worth copying. All access is through slices' checked methods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::reason::Reason;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The length of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
/// The maximum number of IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 6;
/// The maximum length of all of them.
const MAX_EXTENSIONS_LEN: usize = 256;
/// The payload of a packet is no longer.
const MAX_PACKET: usize = 65535;

/// Numbers of IP protocols and extension headers.
pub(crate) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

/// A frame that is valid so far.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) destination: Mac,
    pub(crate) source: Mac,
    pub(crate) content: Content<'a>,
}

#[derive(Debug)]
pub(crate) enum Content<'a> {
    Arp(Arp),
    Ip(Packet<'a>),
}

/// An ARP request or reply for IPv4.
#[derive(Debug)]
pub(crate) struct Arp {
    pub(crate) is_request: bool,
    pub(crate) sender_mac: Mac,
    pub(crate) sender: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
}

/// An IPv4 or IPv6 packet.
#[derive(Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    /// It has IPv4 options.
    pub(crate) has_options: bool,
    pub(crate) extensions: Extensions,
    pub(crate) fragment: Option<Fragment>,
    /// What `payload` begins with; after the first fragment, the protocol of the whole packet as
    /// far as it is known.
    pub(crate) protocol: u8,
    /// The payload, as far as it is at hand.
    pub(crate) payload: &'a [u8],
    /// The length of the whole payload.
    pub(crate) payload_len: usize,
}

/// The IPv6 extension headers of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    pub(crate) hop_by_hop: bool,
    /// Destination options or a routing header.
    pub(crate) others: bool,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// In bytes.
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// Reads the headers of a frame of `len` bytes that begins with `bytes`.
pub(crate) fn parse(bytes: &[u8], len: usize) -> Result<Frame<'_>, Reason> {
    let bytes = bytes.get(..len).unwrap_or(bytes);
    let (header, rest) = bytes
        .split_first_chunk::<ETHERNET>()
        .ok_or(Reason::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let len = len.saturating_sub(ETHERNET);
    let content = match u16::from_be_bytes([t0, t1]) {
        0x0800 => Content::Ip(ipv4(rest, len)?),
        0x86dd => Content::Ip(ipv6(rest, len)?),
        0x0806 => Content::Arp(arp(rest, len)?),
        0x8100 | 0x88a8 | 0x9100 => return Err(Reason::Vlan),
        _ => return Err(Reason::EtherType),
    };
    Ok(Frame {
        destination: [d0, d1, d2, d3, d4, d5],
        source: [s0, s1, s2, s3, s4, s5],
        content,
    })
}

/// Reads the headers of a frame as [`parse`] does; `None` if it is anything else than a TCP segment that
/// is not fragmented, or invalid.
pub(crate) fn segment(bytes: &[u8], len: usize) -> Option<(Packet<'_>, Segment<'_>)> {
    let Ok(Frame {
        content: Content::Ip(packet),
        ..
    }) = parse(bytes, len)
    else {
        return None;
    };
    if packet.protocol != protocol::TCP || packet.fragment.is_some() {
        return None;
    }
    let segment = packet.tcp().ok()?;
    Some((packet, segment))
}

fn arp(bytes: &[u8], len: usize) -> Result<Arp, Reason> {
    // Padded to the minimum of an Ethernet frame, and no place for anything else.
    if len > 46 + 4 {
        return Err(Reason::Malformed);
    }
    let packet = bytes.first_chunk::<28>().ok_or(Reason::Malformed)?;
    // Ethernet, IPv4, and the lengths of their addresses.
    let is_request = match packet.first_chunk::<8>() {
        Some([0, 1, 8, 0, 6, 4, 0, 1]) => true,
        Some([0, 1, 8, 0, 6, 4, 0, 2]) => false,
        _ => return Err(Reason::Malformed),
    };
    let array = |at: usize| -> [u8; 4] { std::array::from_fn(|i| packet[at + i]) };
    Ok(Arp {
        is_request,
        sender_mac: std::array::from_fn(|i| packet[8 + i]),
        sender: array(14).into(),
        target: array(24).into(),
    })
}

fn ipv4(bytes: &[u8], len: usize) -> Result<Packet<'_>, Reason> {
    let header = bytes.first_chunk::<20>().ok_or(Reason::Malformed)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_len < 20 || total < header_len || total > len {
        return Err(Reason::Malformed);
    }
    let payload_len = total - header_len;
    let rest = bytes.get(header_len..).ok_or(Reason::Malformed)?;
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let offset = usize::from(flags & 0x1fff) * 8;
    let more = flags & 0x2000 != 0;
    let fragment = (more || offset > 0).then(|| Fragment {
        id: u16::from_be_bytes([header[4], header[5]]).into(),
        offset,
        more,
    });
    let address = |at: usize| -> [u8; 4] { std::array::from_fn(|i| header[at + i]) };
    Ok(Packet {
        source: Ipv4Addr::from(address(12)).into(),
        destination: Ipv4Addr::from(address(16)).into(),
        hop_limit: header[8],
        has_options: header_len > 20,
        extensions: Extensions::default(),
        fragment,
        protocol: header[9],
        payload: rest.get(..payload_len).unwrap_or(rest),
        payload_len,
    })
}

fn ipv6(bytes: &[u8], len: usize) -> Result<Packet<'_>, Reason> {
    let (header, rest) = bytes.split_first_chunk::<40>().ok_or(Reason::Malformed)?;
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || payload_len > len.saturating_sub(40) {
        return Err(Reason::Malformed);
    }
    let address = |at: usize| -> [u8; 16] { std::array::from_fn(|i| header[at + i]) };
    let mut packet = Packet {
        source: Ipv6Addr::from(address(8)).into(),
        destination: Ipv6Addr::from(address(24)).into(),
        hop_limit: header[7],
        has_options: false,
        extensions: Extensions::default(),
        fragment: None,
        protocol: header[6],
        payload: rest.get(..payload_len).unwrap_or(rest),
        payload_len,
    };
    walk_extensions(&mut packet)?;
    Ok(packet)
}

/// Moves `packet.protocol` and `packet.payload` behind the extension headers. Behind the header of a
/// later fragment there is no header to be read.
fn walk_extensions(packet: &mut Packet<'_>) -> Result<(), Reason> {
    let whole = packet.payload_len;
    for number in 0..=MAX_EXTENSIONS {
        let header = packet.payload.first_chunk::<8>();
        let length = match packet.protocol {
            // Allowed only as the first header.
            protocol::HOP_BY_HOP if number > 0 => return Err(Reason::ExtensionHeader),
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                (usize::from(header.ok_or(Reason::Malformed)?[1]) + 1) * 8
            }
            protocol::FRAGMENT => 8,
            _ => return Ok(()),
        };
        let header = header.ok_or(Reason::Malformed)?;
        match packet.protocol {
            protocol::HOP_BY_HOP => packet.extensions.hop_by_hop = true,
            protocol::FRAGMENT if packet.fragment.is_some() => return Err(Reason::ExtensionHeader),
            protocol::FRAGMENT => {
                let flags = u16::from_be_bytes([header[2], header[3]]);
                packet.fragment = Some(Fragment {
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    offset: usize::from(flags & !7),
                    more: flags & 1 != 0,
                });
            }
            _ => packet.extensions.others = true,
        }
        packet.protocol = header[0];
        packet.payload = packet.payload.get(length..).ok_or(Reason::Malformed)?;
        packet.payload_len -= length;
        if whole - packet.payload_len > MAX_EXTENSIONS_LEN {
            return Err(Reason::ExtensionHeader);
        }
        if packet.fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Ok(());
        }
    }
    Err(Reason::ExtensionHeader)
}

impl Fragment {
    /// Whether this part begins with the header of the payload.
    pub(crate) fn is_first(self) -> bool {
        self.offset == 0
    }

    /// Where this part of `len` bytes ends, if the packet can be that long.
    pub(crate) fn end(self, len: usize) -> Option<usize> {
        let end = self.offset + len;
        // All parts but the last are multiples of 8 bytes.
        (len > 0 && end <= MAX_PACKET && (!self.more || len.is_multiple_of(8))).then_some(end)
    }
}

/// A TCP segment.
#[derive(Debug)]
pub(crate) struct Segment<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) flags: TcpFlags,
    /// The data, as far as they are at hand.
    pub(crate) data: &'a [u8],
    /// The length of all of the data.
    pub(crate) data_len: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpFlags(u8);

impl TcpFlags {
    pub(crate) const ACK: u8 = 0x10;

    pub(crate) fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    pub(crate) fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    pub(crate) fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    pub(crate) fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    pub(crate) fn urg(self) -> bool {
        self.0 & 0x20 != 0
    }
}

impl<'a> Packet<'a> {
    /// Reads the header of a TCP segment.
    pub(crate) fn tcp(&self) -> Result<Segment<'a>, Reason> {
        let header = self.payload.first_chunk::<20>().ok_or(Reason::Malformed)?;
        let length = usize::from(header[12] >> 4) * 4;
        if length < 20 || length > self.payload_len {
            return Err(Reason::Malformed);
        }
        Ok(Segment {
            source_port: u16::from_be_bytes([header[0], header[1]]),
            destination_port: u16::from_be_bytes([header[2], header[3]]),
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            acknowledgment: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags: TcpFlags(header[13]),
            data: self.payload.get(length..).ok_or(Reason::Malformed)?,
            data_len: self.payload_len - length,
        })
    }

    /// Reads the ports of a UDP datagram, the source's first.
    pub(crate) fn udp(&self) -> Result<(u16, u16), Reason> {
        let header = self.payload.first_chunk::<8>().ok_or(Reason::Malformed)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // The header of a fragment tells the length of the whole datagram.
        if length < 8 || (self.fragment.is_none() && length > self.payload_len) {
            return Err(Reason::Malformed);
        }
        Ok((
            u16::from_be_bytes([header[0], header[1]]),
            u16::from_be_bytes([header[2], header[3]]),
        ))
    }

    /// Reads the type of an ICMP or ICMPv6 message and, if it is an echo, its identifier.
    pub(crate) fn icmp(&self) -> Result<(u8, u16), Reason> {
        let header = self.payload.first_chunk::<8>().ok_or(Reason::Malformed)?;
        Ok((header[0], u16::from_be_bytes([header[4], header[5]])))
    }
}
