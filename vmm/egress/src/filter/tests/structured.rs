//! Random frames with structure: neighbour discovery, ARP, VLAN tags, IPv4 options, IPv6 extension
//! headers, fragments in any order.
//!
//! Random bytes seldom make these. The oracle reads what leaves byte by byte, and applies the rules in
//! words of its own: on whose behalf it speaks, whom it asks for, and which hardware addresses its
//! options tell.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::frames::udp;
use super::*;

const FOREIGN_MAC: [u8; 6] = [0x52, 0x54, 0, 0x65, 0x43, 0x21];
const BROADCAST: [u8; 6] = [0xff; 6];
const RULES: &[&str] = &["allow=192.0.2.0/24", "allow=[2001:db8::1]"];

const OWN: &str = "10.0.2.15";
const OWN_6: &str = "fd00:1::2";
const OWN_LINK_LOCAL: &str = "fe80::5054:ff:fe12:3456";
/// Own addresses, others on the link, and elsewhere.
const ADDRESSES: &[&str] = &[OWN, "10.0.2.2", "10.0.3.1", "192.0.2.1", "0.0.0.0"];
const ADDRESSES_6: &[&str] = &[
    OWN_6,
    OWN_LINK_LOCAL,
    "fd00:1::3",
    "fe80::1",
    "2001:db8::1",
    "2001:db8::2",
    "::",
    "ff02::1",
    "ff02::1:ff00:3",
    "ff05::1",
];

fn mac() -> impl Strategy<Value = [u8; 6]> {
    prop_oneof![4 => Just(MAC), 1 => Just(FOREIGN_MAC), 1 => Just(BROADCAST), 1 => Just([0; 6])]
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![2 => Just(OWN), 3 => select(ADDRESSES)].prop_map(|text| text.parse().unwrap())
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![2 => Just(OWN_6), 3 => select(ADDRESSES_6)].prop_map(|text| text.parse().unwrap())
}

fn ethernet(source: [u8; 6], destination: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [0x60, 0, 0, 0, length[0], length[1], next, hop_limit];
    [&head[..], &from.octets(), &to.octets(), payload].concat()
}

/// Where an IPv6 packet is sent on the link.
fn link_of(to: Ipv6Addr) -> [u8; 6] {
    match to.octets() {
        [0xff, .., a, b, c, d] => [0x33, 0x33, a, b, c, d],
        _ => GATEWAY_MAC,
    }
}

/// A message of neighbour discovery: a kind, a target, and options.
fn discovery() -> impl Strategy<Value = Vec<u8>> {
    let option = (
        select(&[1u8, 2, 2, 1, 5, 14, 25][..]),
        mac(),
        select(&[1u8, 1, 1, 1, 2, 0, 9][..]),
    );
    let hop_limit = prop_oneof![3 => Just(255u8), 2 => Just(1u8), 1 => Just(64u8)];
    let kind = select(&[135u8, 135, 136, 136, 133, 134, 137, 130, 131, 143][..]);
    let message = (kind, v6(), vec(option, 0..3)).prop_map(|(kind, target, options)| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        match kind {
            135 | 136 => message.extend(target.octets()),
            // Lifetimes of a router; the target and the destination of a redirect.
            134 => message.extend([0; 8]),
            137 => message.extend([target.octets(), target.octets()].concat()),
            _ => {}
        }
        for (kind, mac, length) in options {
            message.extend([kind, length]);
            message.extend(mac);
        }
        message
    });
    (mac(), v6(), v6(), hop_limit, message).prop_map(|(link, from, to, hop_limit, message)| {
        ethernet(
            link,
            link_of(to),
            0x86dd,
            &ipv6(from, to, 58, hop_limit, &message),
        )
    })
}

/// A packet behind one to seven extension headers.
fn extended() -> impl Strategy<Value = Vec<u8>> {
    let inner = prop_oneof![
        3 => Just((17u8, [vec![0x9c, 0x40, 1, 0xbb, 0, 12, 0, 0], b"data".to_vec()].concat())),
        1 => Just((6u8, [vec![0x9cu8, 0x40, 1, 0xbb], vec![0; 8], vec![0x50, 2], vec![0xff; 6]].concat())),
        1 => Just((58u8, vec![128u8, 0, 0, 0, 0, 1, 0, 0])),
        1 => v6().prop_map(|target| (58u8, [vec![136u8, 0, 0, 0, 0, 0, 0, 0], target.octets().to_vec()].concat())),
    ];
    let headers = vec(select(&[0u8, 43, 44, 60, 51, 135, 139][..]), 1..=7);
    (headers, inner, v6(), any::<bool>()).prop_map(|(headers, (last, inner), to, more)| {
        let first = headers[0];
        let nexts = headers.iter().skip(1).copied().chain([last]);
        let mut payload = Vec::new();
        for (kind, next) in headers.iter().zip(nexts) {
            payload.extend(match *kind {
                44 => [next, 0, 0, u8::from(more), 0, 0, 0, 7],
                // Padding.
                _ => [next, 0, 1, 4, 0, 0, 0, 0],
            });
        }
        payload.extend(inner);
        let packet = ipv6(OWN_6.parse().unwrap(), to, first, 255, &payload);
        ethernet(MAC, link_of(to), 0x86dd, &packet)
    })
}

fn arp() -> impl Strategy<Value = Vec<u8>> {
    let operation = select(&[1u8, 1, 2, 3][..]);
    (mac(), mac(), operation, mac(), v4(), mac(), v4()).prop_map(
        |(from, to, operation, sender_mac, sender, target_mac, target)| {
            let head = [0, 1, 8, 0, 6, 4, 0, operation];
            let (sender, target) = (sender.octets(), target.octets());
            let packet = [&head[..], &sender_mac, &sender, &target_mac, &target].concat();
            ethernet(from, to, 0x0806, &packet)
        },
    )
}

/// A datagram that rules allow, or its sender does not.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let from = prop_oneof![3 => Just(OWN), 1 => Just("10.0.2.16")];
    let to = prop_oneof![3 => Just("192.0.2.1"), 1 => Just("198.51.100.1")];
    (from, to, 0usize..120).prop_map(|(from, to, length)| {
        udp((address(from), 40000), (address(to), 443), &vec![7; length])
    })
}

fn tagged() -> impl Strategy<Value = Vec<u8>> {
    let tag = (select(&[0x8100u16, 0x88a8, 0x9100][..]), any::<u16>());
    (prop_oneof![datagram(), discovery(), arp()], vec(tag, 1..3)).prop_map(|(mut frame, tags)| {
        for (kind, tag) in tags {
            frame.splice(12..12, [kind.to_be_bytes(), tag.to_be_bytes()].concat());
        }
        frame
    })
}

fn with_options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1u8, 1, 1, 0]),
        // Loose and strict source routes, record route.
        select(&[131u8, 137, 7][..]).prop_map(|kind| vec![kind, 7, 4, 192, 0, 2, 9, 0]),
        Just(vec![148u8, 4, 0, 0]),
    ];
    (datagram(), vec(option, 1..4)).prop_map(|(mut frame, options)| {
        let options = options.concat();
        let words = u8::try_from(options.len() / 4).unwrap();
        let length = u16::from_be_bytes([frame[16], frame[17]]) + u16::from(words) * 4;
        frame[14] += words;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame.splice(34..34, options);
        frame
    })
}

/// The parts of one datagram, of which some are lost, and some change places.
fn fragments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let packet = (
        any::<bool>(),
        prop_oneof![4 => Just(true), 1 => Just(false)],
        0u8..3,
    );
    let sizes = vec(1usize..5, 1..5);
    (packet, sizes).prop_flat_map(|((is_v6, is_allowed, id), sizes)| {
        let mut parts = Vec::new();
        let mut offset = 0;
        for (number, size) in sizes.iter().enumerate() {
            let length = size * 8;
            let mut data = vec![7; length];
            if number == 0 {
                data[..8].copy_from_slice(&[0x9c, 0x40, 1, 0xbb, 0, 200, 0, 0]);
            }
            let more = number + 1 < sizes.len();
            parts.push(if is_v6 {
                part_6(is_allowed, id, offset, more, &data)
            } else {
                part(is_allowed, id, offset, more, &data)
            });
            offset += length;
        }
        let count = parts.len();
        let order = prop_oneof![
            2 => Just(parts.clone()),
            1 => Just(parts.clone()).prop_shuffle(),
            1 => subsequence(parts.clone(), 0..=count),
            // Again, some of them: overlapping parts.
            1 => subsequence(parts.clone(), 0..=count).prop_map(move |again| [parts.clone(), again].concat()),
        ];
        order.boxed()
    })
}

fn part(is_allowed: bool, id: u8, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + data.len()).unwrap().to_be_bytes();
    let flags = u16::try_from(offset / 8).unwrap() | u16::from(more) << 13;
    let [high, low] = flags.to_be_bytes();
    let last = if is_allowed {
        [192, 0, 2, 1]
    } else {
        [198, 51, 100, 1]
    };
    let head = [0x45, 0, total[0], total[1], 0, id, high, low, 64, 17, 0, 0];
    let packet = [&head[..], &[10, 0, 2, 15], &last, data].concat();
    ethernet(MAC, GATEWAY_MAC, 0x0800, &packet)
}

fn part_6(is_allowed: bool, id: u8, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let [high, low] = (u16::try_from(offset).unwrap() | u16::from(more)).to_be_bytes();
    let payload = [&[17, 0, high, low, 0, 0, 0, id][..], data].concat();
    let to = if is_allowed {
        "2001:db8::1"
    } else {
        "2001:db8::2"
    };
    let packet = ipv6(
        OWN_6.parse().unwrap(),
        to.parse().unwrap(),
        44,
        64,
        &payload,
    );
    ethernet(MAC, GATEWAY_MAC, 0x86dd, &packet)
}

fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = prop_oneof![4 => discovery(), 3 => extended(), 2 => arp(), 1 => tagged(), 1 => with_options(), 1 => datagram()];
    let several = prop_oneof![5 => one.prop_map(|frame| vec![frame]), 2 => fragments()];
    vec(several, 1..20).prop_map(|frames| frames.concat())
}

/// What a frame that left was, and for packets in parts where the next part begins.
#[derive(Default)]
struct Oracle {
    next: HashMap<(Vec<u8>, Vec<u8>), usize>,
}

impl Oracle {
    /// Fails if the frame may not leave; returns what it is.
    fn judge(&mut self, frame: &[u8]) -> &'static str {
        assert_eq!(frame[6..12], MAC);
        let packet = &frame[14..];
        match frame[12..14] {
            [8, 6] => {
                assert!([1, 2].contains(&packet[7]));
                assert_eq!(packet[8..14], MAC);
                let is_probe = packet[7] == 1 && packet[14..18] == [0; 4];
                assert!(packet[14..18] == [10, 0, 2, 15] || is_probe);
                assert_eq!(packet[24..27], [10, 0, 2]);
                "arp"
            }
            [8, 0] => {
                assert_eq!(packet[0], 0x45, "IPv4 options left");
                assert_eq!(packet[12..16], [10, 0, 2, 15]);
                assert_eq!(packet[16..19], [192, 0, 2]);
                assert_eq!((packet[9], frame[0] & 1), (17, 0));
                let flags = usize::from(u16::from_be_bytes([packet[6], packet[7]]));
                let key = (packet[12..20].to_vec(), packet[4..6].to_vec());
                self.part(
                    key,
                    (flags & 0x1fff) * 8,
                    flags & 0x2000 != 0,
                    &packet[20..],
                )
            }
            [0x86, 0xdd] => self.judge_6(frame, packet),
            [high, low] => panic!("{high:02x}{low:02x} left"),
            _ => unreachable!(),
        }
    }

    fn judge_6(&mut self, frame: &[u8], packet: &[u8]) -> &'static str {
        let [from, to] =
            [8, 24].map(|at| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap()));
        let own: [Ipv6Addr; 2] = [OWN_6, OWN_LINK_LOCAL].map(|text| text.parse().unwrap());
        let payload = &packet[40..];
        let (next, is_router_alert) = match packet[6] {
            // Only reports of multicast listeners have one.
            0 => (payload[0], true),
            next => (next, false),
        };
        let message = if is_router_alert {
            &payload[8..]
        } else {
            payload
        };
        if next == 58 && message[0] >= 130 {
            assert!(own.contains(&from) || from.is_unspecified());
            let reports = [131, 132, 143].contains(&message[0]);
            assert_eq!(packet[7], if reports { 1 } else { 255 });
            if reports {
                assert!(to.is_multicast());
                return "report";
            }
            assert!(!is_router_alert && is_near(to));
            let options = match message[0] {
                133 => 8,
                135 | 136 => 24,
                kind => panic!("ICMPv6 {kind} left"),
            };
            if options == 24 {
                let target = Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).unwrap());
                assert!(is_near(target));
                assert!(message[0] == 135 || own.contains(&target), "for {target}");
            }
            check_options(&message[options..]);
            return if message[0] == 136 {
                "advertisement"
            } else {
                "solicitation"
            };
        }
        assert!(own.contains(&from));
        assert_eq!(to.to_string(), "2001:db8::1");
        assert!(!is_router_alert && frame[0] & 1 == 0);
        match next {
            44 => {
                assert!([17, 58].contains(&payload[0]));
                let flags = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
                let key = (packet[8..40].to_vec(), payload[4..8].to_vec());
                self.part(key, flags & !7, flags & 1 != 0, &payload[8..])
            }
            17 | 6 | 58 => "packet",
            next => panic!("extension header {next} left"),
        }
    }

    /// A packet, or a part of one: parts leave in order and without overlaps.
    fn part(
        &mut self,
        key: (Vec<u8>, Vec<u8>),
        offset: usize,
        more: bool,
        data: &[u8],
    ) -> &'static str {
        if offset == 0 && !more {
            return "packet";
        }
        if offset > 0 {
            assert_eq!(self.next.remove(&key), Some(offset), "a part out of order");
        }
        if more {
            self.next.insert(key, offset + data.len());
            return "part";
        }
        "last part"
    }
}

/// Whether an address is one on the guest's link, or a group.
fn is_near(address: Ipv6Addr) -> bool {
    address.is_multicast() || matches!(address.segments(), [0xfd00, 1, 0, 0, ..] | [0xfe80, ..])
}

/// The options are whole, and tell no hardware address but the guest's.
fn check_options(mut options: &[u8]) {
    while let [kind, words, ..] = *options {
        assert!(words > 0 && usize::from(words) * 8 <= options.len());
        if [1, 2].contains(&kind) {
            assert_eq!((words, &options[2..8]), (1, &MAC[..]));
        }
        options = &options[usize::from(words) * 8..];
    }
    assert!(options.is_empty());
}

/// Sends the frames; counts those that left, by what they were.
fn run(frames: &[Vec<u8>], left: &mut HashMap<&'static str, u32>) {
    let mut bench = Bench::new(RULES);
    let mut oracle = Oracle::default();
    for frame in frames {
        match bench.send(frame) {
            Verdict::Pass => *left.entry(oracle.judge(frame)).or_default() += 1,
            Verdict::Drop(_) => {}
            verdict => panic!("{verdict:?} without rules for names"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_for_others_leaves(frames in frames()) {
        run(&frames, &mut HashMap::new());
    }
}

/// The frames are not all refused, or the property above would say nothing.
#[test]
fn some_of_each_kind_leave() {
    let mut runner = TestRunner::deterministic();
    let mut left = HashMap::new();
    for _ in 0..3000 {
        run(
            &frames().new_tree(&mut runner).unwrap().current(),
            &mut left,
        );
    }
    for kind in [
        "arp",
        "report",
        "solicitation",
        "advertisement",
        "packet",
        "part",
        "last part",
    ] {
        assert!(
            left.get(kind).is_some_and(|&count| count > 5),
            "{kind}: {left:?}"
        );
    }
}
