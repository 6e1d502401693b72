//! Answers to refused packets, checked by smoltcp with their checksums.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv6DstUnreachable,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, TcpPacket, TcpRepr,
    TcpSeqNumber,
};

use super::frames::{echo, udp};
use super::*;
use crate::rejection;

fn answer(frame: &[u8], reason: Reason) -> Option<Vec<u8>> {
    let frame = GuestFrame {
        bytes: frame.get(..Filter::HEADERS).unwrap_or(frame),
        len: frame.len(),
        header: HEADER,
    };
    rejection(&frame, reason)
}

/// The protocol and payload of an answer from `to`.
fn payload(frame: &[u8], to: IpAddr) -> (IpProtocol, Vec<u8>) {
    let frame = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!((frame.dst_addr().0, frame.src_addr().0), (MAC, GATEWAY_MAC));
    match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
            assert!(Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).is_ok());
            assert_eq!(IpAddr::V4(packet.src_addr()), to);
            assert_eq!(IpAddr::V4(packet.dst_addr()), own(to));
            (packet.next_header(), packet.payload().to_vec())
        }
        _ => {
            let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
            assert_eq!(IpAddr::V6(packet.src_addr()), to);
            assert_eq!(IpAddr::V6(packet.dst_addr()), own(to));
            (packet.next_header(), packet.payload().to_vec())
        }
    }
}

/// The sequence number, acknowledgment and control of a reset.
fn reset(client: Client, frame: &[u8]) -> (u32, Option<u32>) {
    let to = client.destination.0;
    let (protocol, bytes) = payload(&answer(frame, Reason::NoRule).unwrap(), to);
    assert_eq!(protocol, IpProtocol::Tcp);
    let packet = TcpPacket::new_checked(&bytes[..]).unwrap();
    let caps = ChecksumCapabilities::default();
    let repr = TcpRepr::parse(&packet, &to.into(), &own(to).into(), &caps).unwrap();
    assert_eq!(repr.control, TcpControl::Rst);
    assert_eq!((repr.src_port, repr.dst_port), (443, client.source_port));
    let TcpSeqNumber(sequence) = repr.seq_number;
    (
        sequence as u32,
        repr.ack_number.map(|number| number.0 as u32),
    )
}

#[test]
fn a_refused_connection_is_reset() {
    for to in ["192.0.2.1", "2001:db8::1"] {
        let client = Client::new(to, 443);
        assert_eq!(
            reset(client, &client.syn()),
            (0, Some(client.isn.wrapping_add(1)))
        );
        // In an open connection, with the number that the guest expects.
        assert_eq!(reset(client, &client.data(7, &[0; 1000])), (1, None));
        assert_eq!(
            reset(client, &client.control(TcpControl::Fin, 7)),
            (1, None)
        );
        let frame = client.control(TcpControl::Rst, 7);
        assert_eq!(answer(&frame, Reason::NoConnection), None);
    }
}

#[test]
fn refused_datagrams_are_answered() {
    for to in ["192.0.2.1", "2001:db8::1"].map(address) {
        for frame in [
            udp((own(to), 1), (to, 80), &[7; 1000]),
            echo(own(to), to, 1, &[7; 1000]),
        ] {
            let (protocol, bytes) = payload(&answer(&frame, Reason::Rule).unwrap(), to);
            let caps = ChecksumCapabilities::default();
            match (to, own(to)) {
                (IpAddr::V6(to), IpAddr::V6(own)) => {
                    assert_eq!(protocol, IpProtocol::Icmpv6);
                    let packet = Icmpv6Packet::new_checked(&bytes[..]).unwrap();
                    let repr = Icmpv6Repr::parse(&to, &own, &packet, &caps).unwrap();
                    assert!(matches!(
                        repr,
                        Icmpv6Repr::DstUnreachable {
                            reason: Icmpv6DstUnreachable::AdminProhibit,
                            ..
                        }
                    ));
                    assert_eq!(bytes[8..], frame[14..14 + 48]);
                }
                _ => {
                    assert_eq!(protocol, IpProtocol::Icmp);
                    let packet = Icmpv4Packet::new_checked(&bytes[..]).unwrap();
                    assert!(packet.verify_checksum());
                    assert_eq!(packet.msg_type(), Icmpv4Message::DstUnreachable);
                    // Communication administratively prohibited.
                    assert_eq!(packet.msg_code(), 13);
                    assert_eq!(bytes[8..], frame[14..14 + 28]);
                }
            }
        }
    }
}

#[test]
fn only_rules_are_answered() {
    let to = address("192.0.2.1");
    let frame = udp((own(to), 1), (to, 80), b"data");
    for reason in Reason::ALL {
        let is_answered = [
            Reason::Metadata,
            Reason::Rule,
            Reason::NoRule,
            Reason::AmbiguousName,
            Reason::ServerName,
            Reason::ClientHello,
            Reason::HoldLimit,
            Reason::Quic,
            Reason::NoConnection,
            Reason::Dns,
            Reason::EncryptedDns,
        ];
        let expected = is_answered.contains(reason);
        assert_eq!(answer(&frame, *reason).is_some(), expected, "{reason:?}");
    }
    // Neither errors nor replies, and nothing that was sent to many.
    for kind in [0, 3, 11] {
        let mut frame = echo(own(to), to, 1, b"data");
        frame[34] = kind;
        assert_eq!(answer(&frame, Reason::NoRule), None);
    }
    let mut group = frame.clone();
    group[0] |= 1;
    let mut part = frame;
    part[20] = 0x20;
    let multicast = udp((own(to), 1), (address("224.0.0.1"), 80), b"");
    for frame in [group, part, multicast] {
        assert_eq!(answer(&frame, Reason::NoRule), None);
    }
}
