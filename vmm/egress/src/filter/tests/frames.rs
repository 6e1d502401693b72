//! Frames made by smoltcp, whose code the filter does not share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::{GATEWAY_MAC, MAC};

fn caps() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

/// A frame of the guest to its gateway.
pub(crate) fn ethernet(kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(MAC),
        dst_addr: EthernetAddress(GATEWAY_MAC),
        ethertype: kind,
    };
    let mut bytes = vec![0; 14 + payload.len()];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes[14..].copy_from_slice(payload);
    bytes
}

/// A packet in such a frame. Its payload is written by `emit`.
pub(crate) fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let repr = IpRepr::new(source.into(), destination.into(), protocol, length, 64);
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut packet[..], &caps());
    let header = packet.len() - length;
    emit(&mut packet[header..]);
    let kind = match source {
        IpAddr::V4(_) => EthernetProtocol::Ipv4,
        IpAddr::V6(_) => EthernetProtocol::Ipv6,
    };
    ethernet(kind, &packet)
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp<'a> {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
    pub(crate) control: TcpControl,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: Option<u32>,
    pub(crate) data: &'a [u8],
}

impl Tcp<'_> {
    pub(crate) fn frame(self) -> Vec<u8> {
        let repr = TcpRepr {
            src_port: self.source.1,
            dst_port: self.destination.1,
            control: self.control,
            seq_number: TcpSeqNumber(self.sequence as i32),
            ack_number: self
                .acknowledgment
                .map(|number| TcpSeqNumber(number as i32)),
            window_len: 65535,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: self.data,
        };
        let (source, destination) = (self.source.0, self.destination.0);
        ip(
            source,
            destination,
            IpProtocol::Tcp,
            repr.buffer_len(),
            |buffer| {
                let mut packet = TcpPacket::new_unchecked(buffer);
                repr.emit(&mut packet, &source.into(), &destination.into(), &caps());
            },
        )
    }
}

/// A UDP datagram.
pub(crate) fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let repr = UdpRepr {
        src_port: source.1,
        dst_port: destination.1,
    };
    ip(
        source.0,
        destination.0,
        IpProtocol::Udp,
        8 + data.len(),
        |buffer| {
            repr.emit(
                &mut UdpPacket::new_unchecked(buffer),
                &source.0.into(),
                &destination.0.into(),
                data.len(),
                |payload| payload.copy_from_slice(data),
                &caps(),
            );
        },
    )
}

/// An echo request.
pub(crate) fn echo(source: IpAddr, destination: IpAddr, ident: u16, data: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V6(from), IpAddr::V6(to)) => icmpv6(
            from,
            to,
            &Icmpv6Repr::EchoRequest {
                ident,
                seq_no: 1,
                data,
            },
        ),
        _ => {
            let repr = Icmpv4Repr::EchoRequest {
                ident,
                seq_no: 1,
                data,
            };
            ip(
                source,
                destination,
                IpProtocol::Icmp,
                repr.buffer_len(),
                |buffer| {
                    repr.emit(&mut Icmpv4Packet::new_unchecked(buffer), &caps());
                },
            )
        }
    }
}

/// An ICMPv6 message. Those of neighbour discovery have a hop limit of 255.
pub(crate) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, repr: &Icmpv6Repr<'_>) -> Vec<u8> {
    let length = repr.buffer_len();
    let mut frame = ip(
        source.into(),
        destination.into(),
        IpProtocol::Icmpv6,
        length,
        |buffer| {
            let mut packet = Icmpv6Packet::new_unchecked(buffer);
            repr.emit(&source, &destination, &mut packet, &caps());
        },
    );
    match repr {
        Icmpv6Repr::Ndisc(_) => frame[14 + 7] = 255,
        Icmpv6Repr::Mld(_) => frame[14 + 7] = 1,
        _ => {}
    }
    frame
}

/// An ARP packet: what the guest claims, and for whom it asks.
pub(crate) fn arp(
    operation: ArpOperation,
    sender: ([u8; 6], Ipv4Addr),
    target: Ipv4Addr,
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(sender.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; repr.buffer_len()];
    let mut packet = ArpPacket::new_unchecked(&mut bytes);
    repr.emit(&mut packet);
    ethernet(EthernetProtocol::Arp, &bytes)
}
