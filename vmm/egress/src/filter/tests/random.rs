//! Random frames: nothing that is forbidden leaves, and nothing panics.
//!
//! The oracle reads what leaves with smoltcp, and applies the rules in words of its own.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use smoltcp::wire::{
    ArpOperation, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

use super::frames::{arp, echo, udp};
use super::*;
use crate::tls::tests::hello_of;

const ADDRESSES: &[&str] = &[
    "192.0.2.1",
    "192.0.2.2",
    "198.51.100.1",
    "10.0.2.2",
    "10.0.2.255",
    "127.0.0.1",
    "169.254.169.254",
    "224.0.0.251",
    "2001:db8::1",
    "2001:db8::2",
    "fe80::1",
    "ff02::1",
    "::1",
];
const SOURCES: &[&str] = &[
    "10.0.2.15",
    "10.0.2.16",
    "fd00:1::2",
    "fd00:1::3",
    "0.0.0.0",
    "::",
];
const PORTS: &[u16] = &[443, 80, 53, 853, 5353, 5355, 67, 25, 0];

/// What the rules of the test allow: two addresses, to one port or with ICMP.
const RULES: &[&str] = &[
    "deny=192.0.2.2",
    "allow=192.0.2.0/24:443",
    "allow=[2001:db8::1]",
];

fn is_allowed(to: IpAddr, port: Option<u16>) -> bool {
    match to {
        IpAddr::V4(to) => {
            let [a, b, c, last] = to.octets();
            [a, b, c] == [192, 0, 2] && last != 2 && port == Some(443)
        }
        IpAddr::V6(to) => {
            let refused = [0, 53, 853, 5353, 5355, 67, 68, 546, 547];
            to.to_string() == "2001:db8::1" && !port.is_some_and(|port| refused.contains(&port))
        }
    }
}

/// A frame, valid or nearly so: what it is made of, then bytes that are changed, then its length.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let source = prop_oneof![6 => Just(None), 1 => select(SOURCES).prop_map(Some)];
    let port = prop_oneof![4 => Just(443), 2 => select(PORTS)];
    let whole = (
        source,
        select(ADDRESSES),
        port,
        0..5,
        any::<u8>(),
        0usize..80,
    )
        .prop_map(|(source, to, port, kind, flags, length)| {
            let to = address(to);
            let source = source
                .map(address)
                .filter(|from| from.is_ipv4() == to.is_ipv4());
            let from = source.unwrap_or(own(to));
            let data = vec![7; length];
            match (kind, from, to) {
                (0, ..) => udp((from, 40000), (to, port), &data),
                (1, ..) => echo(from, to, 1, &data),
                (2, IpAddr::V4(from), IpAddr::V4(to)) => {
                    arp(ArpOperation::Request, (MAC, from), to)
                }
                _ => {
                    let mut frame = Tcp {
                        source: (from, 40000),
                        destination: (to, port),
                        control: TcpControl::Syn,
                        sequence: 1000,
                        acknowledgment: None,
                        data: &data,
                    }
                    .frame();
                    if kind == 3 {
                        let header = if to.is_ipv4() { 34 } else { 54 };
                        frame[header + 13] = flags;
                    }
                    frame
                }
            }
        });
    // Headers are changed more often than data.
    let change = (
        prop_oneof![0usize..24, 12usize..74, 0usize..200],
        any::<u8>(),
    );
    let insert =
        prop_oneof![8 => Just(None), 1 => (12usize..60, vec(any::<u8>(), 1..24)).prop_map(Some)];
    let cut = prop_oneof![8 => Just(None), 1 => (0usize..200).prop_map(Some)];
    (whole, vec(change, 0..3), insert, cut).prop_map(|(mut frame, changes, insert, cut)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        if let Some((at, bytes)) = insert {
            let at = at.min(frame.len());
            frame.splice(at..at, bytes);
        }
        frame.truncate(cut.unwrap_or(frame.len()));
        frame
    })
}

/// What has left: connections, and packets whose first part has.
#[derive(Default)]
struct Seen {
    connections: HashSet<(IpAddr, u16, u16)>,
    parts: HashSet<(IpAddr, u8, u32)>,
}

/// Fails if the frame may not leave.
fn check_left(bytes: &[u8], seen: &mut Seen) {
    let frame = EthernetFrame::new_checked(bytes).expect("a frame");
    assert_eq!(frame.src_addr().0, MAC);
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let sender = &frame.payload()[8..18];
            assert_eq!(sender[..6], MAC);
            assert!(
                [[10, 0, 2, 15], [0; 4]]
                    .iter()
                    .any(|own| sender[6..] == *own)
            );
            assert_eq!(frame.payload()[24..27], [10, 0, 2]);
        }
        EthernetProtocol::Ipv4 => {
            assert!(frame.dst_addr().is_unicast());
            let packet = Ipv4Packet::new_checked(frame.payload()).expect("an IPv4 packet");
            assert_eq!((packet.version(), packet.header_len()), (4, 20));
            assert_eq!(packet.src_addr().octets(), [10, 0, 2, 15]);
            let to = IpAddr::V4(packet.dst_addr());
            let part = (to, packet.next_header().into(), packet.ident().into());
            if packet.frag_offset() > 0 {
                assert!(seen.parts.contains(&part), "a part without its first");
                return;
            }
            if packet.more_frags() {
                assert_ne!(packet.next_header(), IpProtocol::Tcp);
                seen.parts.insert(part);
            }
            check_packet(to, packet.next_header(), packet.payload(), seen);
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(frame.payload()).expect("an IPv6 packet");
            let to = IpAddr::V6(packet.dst_addr());
            let protocol = packet.next_header();
            let payload = packet.payload();
            if protocol == IpProtocol::HopByHop {
                assert_eq!((payload[0], packet.hop_limit()), (58, 1));
                return;
            }
            // Discovery on the link, with nothing but the guest's addresses.
            if protocol == IpProtocol::Icmpv6
                && [131, 132, 133, 135, 136, 143].contains(&payload[0])
            {
                let reports = [131, 132, 143].contains(&payload[0]);
                assert_eq!(packet.hop_limit(), if reports { 1 } else { 255 });
                assert!(packet.payload_len() <= 128);
                return;
            }
            let own: [std::net::Ipv6Addr; 2] =
                ["fd00:1::2", "fe80::5054:ff:fe12:3456"].map(|text| text.parse().unwrap());
            assert!(own.contains(&packet.src_addr()));
            assert_eq!(frame.dst_addr().0[0] & 1, 0);
            if protocol == IpProtocol::Ipv6Frag {
                let id = u32::from_be_bytes(payload[4..8].try_into().unwrap());
                let part = (to, payload[0], id);
                let offset = u16::from_be_bytes([payload[2], payload[3]]) & !7;
                if offset > 0 {
                    assert!(seen.parts.contains(&part), "a part without its first");
                    return;
                }
                assert_ne!(payload[0], 6);
                seen.parts.insert(part);
                check_packet(to, payload[0].into(), &payload[8..], seen);
                return;
            }
            check_packet(to, protocol, payload, seen);
        }
        other => panic!("{other} left"),
    }
}

fn check_packet(to: IpAddr, protocol: IpProtocol, payload: &[u8], seen: &mut Seen) {
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(payload).expect("a TCP segment");
            let port = segment.dst_port();
            assert!(is_allowed(to, Some(port)), "TCP to {to} {port} left");
            let connection = (to, segment.src_port(), port);
            if segment.syn() {
                assert!(!segment.ack() && !segment.fin() && !segment.rst());
                seen.connections.insert(connection);
            } else {
                assert!(
                    seen.connections.contains(&connection),
                    "TCP without SYN left"
                );
            }
        }
        IpProtocol::Udp => {
            let port = UdpPacket::new_unchecked(payload).dst_port();
            assert!(is_allowed(to, Some(port)), "UDP to {to} {port} left");
        }
        IpProtocol::Icmp => {
            assert!(to.is_ipv4() && is_allowed(to, None));
            assert!([0, 3, 8, 11, 12].contains(&payload[0]));
        }
        IpProtocol::Icmpv6 => {
            assert!(to.is_ipv6() && is_allowed(to, None));
            assert!([1, 2, 3, 4, 128, 129].contains(&payload[0]));
        }
        other => panic!("{other} left"),
    }
}

/// What a hostile guest does with a connection about which its data decide.
#[derive(Clone, Debug)]
enum Action {
    /// A SYN whose number is this much higher than that of the first.
    Syn { shift: u32 },
    /// A part of one of two streams. It begins where the last part that was taken ended, or
    /// anywhere, in the numbers of a SYN.
    Data {
        shift: u32,
        is_evil: bool,
        begin: Option<usize>,
        length: usize,
        control: TcpControl,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let shift =
        prop_oneof![8 => Just(0), 1 => 1u32..120, 1 => (1u32..120).prop_map(u32::wrapping_neg)];
    let control = prop_oneof![
        12 => Just(TcpControl::Psh),
        1 => Just(TcpControl::Fin),
        1 => Just(TcpControl::Rst),
    ];
    let begin = prop::option::weighted(0.2, 0usize..140);
    let data = (
        shift.clone(),
        prop::bool::weighted(0.3),
        begin,
        1usize..140,
        control,
    )
        .prop_map(|(shift, is_evil, begin, length, control)| Action::Data {
            shift,
            is_evil,
            begin,
            length,
            control,
        });
    prop_oneof![1 => shift.prop_map(|shift| Action::Syn { shift }), 6 => data]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_forbidden_leaves(frames in vec(frame(), 1..40)) {
        let mut bench = Bench::new(RULES);
        let mut seen = Seen::default();
        for frame in &frames {
            match bench.send(frame) {
                Verdict::Pass => check_left(frame, &mut seen),
                Verdict::Drop(_) => {}
                verdict => panic!("{verdict:?} without rules for names"),
            }
        }
        let total: u64 = bench.filter.tally().counts().values().sum();
        prop_assert!(total <= frames.len() as u64);
    }

    #[test]
    fn without_a_policy_nothing_foreign_leaves(frames in vec(frame(), 1..20)) {
        let mut bench = Bench::open();
        for frame in &frames {
            if bench.send(frame) != Verdict::Pass {
                continue;
            }
            let frame = EthernetFrame::new_checked(frame).unwrap();
            assert_eq!(frame.src_addr().0, MAC);
            let payload = frame.payload();
            match frame.ethertype() {
                EthernetProtocol::Arp => assert_eq!(payload[8..14], MAC),
                EthernetProtocol::Ipv4 => {
                    assert!(payload[12..16] == [10, 0, 2, 15] || payload[12..16] == [0; 4]);
                    assert!(payload[16] != 127 && payload[16] != 0);
                }
                EthernetProtocol::Ipv6 => assert_ne!(payload[24..40], std::net::Ipv6Addr::LOCALHOST.octets()),
                other => panic!("{other} left"),
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..600), rest in 0usize..70_000) {
        for mut bench in [Bench::new(RULES), Bench::open()] {
            let frame = GuestFrame { bytes: &bytes, len: bytes.len() + rest, header: HEADER };
            let verdict = bench.filter.check(&frame, bench.now);
            prop_assert!(!matches!(verdict, Verdict::PassAfter(_) | Verdict::Hold));
            bench.filter.inbound(&bytes, bytes.len() + rest);
        }
    }

    /// Whichever of the segments that left a server takes, it reads the allowed name.
    #[test]
    fn no_server_can_read_a_denied_name(actions in vec(action(), 1..40)) {
        let good = hello_of("good.example");
        let evil = hello_of("evil.example");
        let mut bench = Bench::new(&["allow=good.example"]);
        bench.pin("good.example", &["192.0.2.1"], 60);
        let server = Client::new("192.0.2.1", 443);
        bench.connect(&server);
        let mut left: Vec<Vec<u8>> = Vec::new();
        let mut expected = 0;
        for action in actions {
            let shifted = |shift| Client { isn: server.isn.wrapping_add(shift), ..server };
            let (frame, end) = match action {
                Action::Syn { shift } => {
                    prop_assert_eq!(bench.send(&shifted(shift).syn()), Verdict::Pass);
                    expected = 0;
                    // A server that has the connection answers only what repeats its SYN.
                    let answer = if shift == 0 { server.syn_ack() } else { server.acknowledgment(0) };
                    bench.receive(&answer);
                    continue;
                }
                Action::Data { shift, is_evil, begin, length, control } => {
                    let stream = if is_evil { &evil } else { &good };
                    let begin = begin.unwrap_or(expected).min(stream.len());
                    let end = (begin + length).min(stream.len());
                    let client = shifted(shift);
                    let sequence = client.isn.wrapping_add(1).wrapping_add(begin as u32);
                    (client.segment(control, sequence, &stream[begin..end]).frame(), end)
                }
            };
            match bench.send(&frame) {
                Verdict::Pass => left.push(frame),
                Verdict::PassAfter(held) => {
                    left.extend(held.into_iter().map(|held| held.bytes));
                    left.push(frame);
                }
                Verdict::Hold => {}
                Verdict::Drop(_) => continue,
                Verdict::NeedMore(_) => unreachable!(),
            }
            expected = end;
        }
        // A shifted stream may put other bytes into fields that decide nothing: those after the name are
        // not compared.
        let name = b"good.example";
        let found = good.windows(name.len()).position(|bytes| bytes == name);
        let checked = &good[..found.unwrap() + name.len()];
        let mut first = None;
        for frame in &left {
            let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
            let segment = TcpPacket::new_checked(packet.payload()).unwrap();
            let sequence = segment.seq_number().0 as u32;
            let offset = sequence.wrapping_sub(server.isn.wrapping_add(1)) as usize;
            for (place, byte) in (offset..).zip(segment.payload()) {
                // Data that are not TLS are allowed too, and are recognised by their first byte.
                if place == 0 {
                    prop_assert_eq!(*first.get_or_insert(*byte), *byte);
                }
                if let Some(expected) = checked.get(place) && first == Some(good[0]) {
                    prop_assert_eq!(expected, byte, "at {}", place);
                }
                prop_assert!(first.is_some(), "something before the first byte");
                // Nothing that wraps around to the beginning.
                prop_assert!(place < 1 << 31);
            }
        }
    }
}
