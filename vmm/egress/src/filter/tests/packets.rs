//! Packets that a policy refuses or reads with care, whatever its rules are.

use smoltcp::wire::{Icmpv6Repr, IpProtocol, MldRepr};

use super::frames::{echo, icmpv6, ip, udp};
use super::*;

/// Where the IP header begins, and the payload of IPv4 and of IPv6.
const IP: usize = 14;
const V4: usize = 34;
const V6: usize = 54;

fn open() -> Bench {
    Bench::new(&["allow=any"])
}

fn v4_udp(data: &[u8]) -> Vec<u8> {
    udp((address("10.0.2.15"), 1), (address("192.0.2.1"), 80), data)
}

fn v6_udp(data: &[u8]) -> Vec<u8> {
    udp(
        (address("fd00:1::2"), 1),
        (address("2001:db8::1"), 80),
        data,
    )
}

fn set16(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn truncated_and_contradictory_headers_are_malformed() {
    for frame in [v4_udp(b"data"), v6_udp(b"data")] {
        for length in 0..frame.len() {
            let verdict = open().send(&frame[..length]);
            assert_eq!(verdict, dropped(Reason::Malformed), "{length}");
        }
        assert_eq!(open().send(&frame), Verdict::Pass);
        // Padding.
        assert_eq!(open().send(&[&frame[..], &[0; 10]].concat()), Verdict::Pass);
    }
    let changed = |at: usize, byte: u8| {
        let mut frame = v4_udp(b"data");
        frame[at] = byte;
        open().send(&frame)
    };
    // Version, header length, total length, length of the datagram.
    for (at, byte) in [
        (IP, 0x65),
        (IP, 0x44),
        (IP + 3, 19),
        (IP + 3, 33),
        (V4 + 5, 7),
        (V4 + 5, 13),
    ] {
        assert_eq!(changed(at, byte), dropped(Reason::Malformed), "{at} {byte}");
    }
    let mut bench = open();
    let mut syn = Client::new("192.0.2.1", 443).syn();
    for length in [0x40, 0xf0] {
        syn[V4 + 12] = length;
        assert_eq!(bench.send(&syn), dropped(Reason::Malformed));
    }
    assert_eq!(bench.udp("192.0.2.1", 0), dropped(Reason::Malformed));
}

#[test]
fn ipv4_options_are_refused() {
    // A loose source route leads to another destination than the header's.
    let frame = v4_udp(b"data");
    let mut bytes = [&frame[..V4], &[131, 7, 4, 203, 0, 113, 1, 0], &frame[V4..]].concat();
    bytes[IP] = 0x47;
    set16(&mut bytes, IP + 2, 40);
    assert_eq!(open().send(&bytes), dropped(Reason::IpOptions));
    assert_eq!(Bench::open().send(&bytes), Verdict::Pass);
}

#[test]
fn extension_headers_are_refused() {
    for kind in [0, 43, 60] {
        let frame = v6_udp(b"data");
        let mut bytes = [&frame[..V6], &[17, 0, 1, 4, 0, 0, 0, 0], &frame[V6..]].concat();
        bytes[IP + 6] = kind;
        set16(&mut bytes, IP + 4, 20);
        assert_eq!(
            open().send(&bytes),
            dropped(Reason::ExtensionHeader),
            "{kind}"
        );
        assert_eq!(Bench::open().send(&bytes), Verdict::Pass);
    }
    // Authentication, encryption, mobility, no next header.
    for kind in [51, 50, 135, 59] {
        let mut bytes = v6_udp(b"data");
        bytes[IP + 6] = kind;
        assert_eq!(open().send(&bytes), dropped(Reason::Protocol), "{kind}");
    }
}

#[test]
fn other_protocols_are_refused() {
    for protocol in [2, 4, 41, 47, 58, 132, 253] {
        let frame = ip(
            address("10.0.2.15"),
            address("192.0.2.1"),
            IpProtocol::from(protocol),
            40,
            |_| {},
        );
        assert_eq!(open().send(&frame), dropped(Reason::Protocol), "{protocol}");
        assert_eq!(Bench::open().send(&frame), Verdict::Pass);
    }
    // ICMP in IPv6.
    let mut frame = v6_udp(b"data");
    frame[IP + 6] = 1;
    assert_eq!(open().send(&frame), dropped(Reason::Protocol));
}

#[test]
fn echo_and_errors_are_the_only_icmp() {
    for kind in 0..=255 {
        let mut frame = echo(address("10.0.2.15"), address("192.0.2.1"), 1, b"data");
        frame[V4] = kind;
        let expected = match kind {
            0 | 3 | 8 | 11 | 12 => Verdict::Pass,
            5 | 9 => dropped(Reason::NeighborDiscovery),
            _ => dropped(Reason::IcmpType),
        };
        assert_eq!(open().send(&frame), expected, "{kind}");
        let mut frame = echo(address("fd00:1::2"), address("2001:db8::1"), 1, &[0; 40]);
        frame[V6] = kind;
        let expected = match kind {
            1..=4 | 128 | 129 => Verdict::Pass,
            130..=137 | 143 => dropped(Reason::NeighborDiscovery),
            _ => dropped(Reason::IcmpType),
        };
        assert_eq!(open().send(&frame), expected, "{kind}");
    }
}

#[test]
fn listener_reports_stay_on_the_link() {
    let own = "fd00:1::2".parse().unwrap();
    let report = Icmpv6Repr::Mld(MldRepr::Report {
        nr_mcast_addr_rcrds: 0,
        data: &[],
    });
    let frame = icmpv6(own, "ff02::16".parse().unwrap(), &report);
    // As Linux sends it: with a router alert.
    let mut alert = [&frame[..V6], &[58, 0, 5, 2, 0, 0, 1, 0], &frame[V6..]].concat();
    alert[IP + 6] = 0;
    let length = u16::try_from(alert.len() - V6).unwrap();
    set16(&mut alert, IP + 4, length);
    for frame in [frame, alert] {
        assert_eq!(open().send(&frame), Verdict::Pass);
        let mut far = frame.clone();
        far[IP + 7] = 2;
        assert_eq!(open().send(&far), dropped(Reason::NeighborDiscovery));
    }
    let frame = icmpv6(own, "2001:db8::1".parse().unwrap(), &report);
    assert_eq!(open().send(&frame), dropped(Reason::NeighborDiscovery));
}

#[test]
fn broadcast_and_multicast_are_refused() {
    for to in [
        "224.0.0.251",
        "239.1.2.3",
        "255.255.255.255",
        "10.0.2.255",
        "ff02::1",
        "ff0e::1",
    ] {
        assert_eq!(open().udp(to, 80), dropped(Reason::Multicast), "{to}");
        assert_eq!(open().echo(to), dropped(Reason::Multicast), "{to}");
        assert_eq!(open().syn(to, 80), dropped(Reason::Multicast), "{to}");
    }
    let mut frame = v4_udp(b"");
    frame[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(open().send(&frame), dropped(Reason::LinkDestination));
    let mut frame = udp((address("10.0.2.15"), 1), (address("10.0.2.9"), 80), b"");
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    assert_eq!(open().send(&frame), Verdict::Pass);
}

#[test]
fn name_resolution_over_the_network_is_refused() {
    for to in [
        "192.0.2.53",
        "10.0.2.2",
        "224.0.0.251",
        "2001:db8::53",
        "ff02::fb",
    ] {
        for (port, reason) in [
            (53, Reason::Dns),
            (853, Reason::EncryptedDns),
            (5353, Reason::LocalNames),
            (5355, Reason::LocalNames),
            (67, Reason::Dhcp),
            (68, Reason::Dhcp),
            (546, Reason::Dhcp),
            (547, Reason::Dhcp),
        ] {
            let mut bench = Bench::new(&["allow=192.0.2.53", "allow=any"]);
            assert_eq!(bench.udp(to, port), dropped(reason), "{to} {port}");
            assert_eq!(bench.syn(to, port), dropped(reason), "{to} {port}");
        }
    }
    assert_eq!(Bench::open().udp("192.0.2.53", 53), Verdict::Pass);
}

/// Parts of a datagram of this many bytes each, as IPv4 or IPv6.
fn parts(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let is_v4 = frame[IP] >> 4 == 4;
    let header = if is_v4 { V4 } else { V6 };
    let payload = &frame[header..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(number, part)| {
            let offset = u16::try_from(number * size).unwrap();
            let more = number + 1 < count;
            let mut bytes = frame[..header].to_vec();
            if is_v4 {
                set16(&mut bytes, IP + 2, u16::try_from(20 + part.len()).unwrap());
                set16(&mut bytes, IP + 4, 0x1234);
                set16(&mut bytes, IP + 6, (offset / 8) | (u16::from(more) << 13));
            } else {
                let protocol = std::mem::replace(&mut bytes[IP + 6], 44);
                set16(&mut bytes, IP + 4, u16::try_from(8 + part.len()).unwrap());
                bytes.extend([protocol, 0]);
                bytes.extend((offset | u16::from(more)).to_be_bytes());
                bytes.extend([0, 0, 0x12, 0x34]);
            }
            bytes.extend(part);
            bytes
        })
        .collect()
}

#[test]
fn the_parts_of_an_allowed_packet_pass_in_order() {
    let data = [7; 100];
    let v4 = echo(address("10.0.2.15"), address("192.0.2.1"), 1, &data);
    let v6 = echo(address("fd00:1::2"), address("2001:db8::1"), 1, &data);
    for frame in [v4_udp(&data), v6_udp(&data), v4, v6] {
        let all = parts(&frame, 40);
        assert_eq!(all.len(), 3);
        let mut bench = open();
        for part in &all {
            assert_eq!(bench.send(part), Verdict::Pass);
        }
        // The last part ended the packet.
        assert_eq!(bench.send(&all[2]), dropped(Reason::Fragment));
        // Without the first, twice, or with a gap.
        let mut bench = open();
        assert_eq!(bench.send(&all[1]), dropped(Reason::Fragment));
        assert_eq!(bench.send(&all[0]), Verdict::Pass);
        assert_eq!(bench.send(&all[2]), dropped(Reason::Fragment));
        assert_eq!(bench.send(&all[1]), Verdict::Pass);
        assert_eq!(bench.send(&all[1]), dropped(Reason::Fragment));
        assert_eq!(bench.send(&all[2]), Verdict::Pass);
        // Too late.
        assert_eq!(bench.send(&all[0]), Verdict::Pass);
        bench.wait(30);
        assert_eq!(bench.send(&all[1]), dropped(Reason::Fragment));
        // Parts that end in the middle of 8 bytes overlap with the next.
        let odd = parts(&frame, 41);
        assert_eq!(open().send(&odd[0]), dropped(Reason::Fragment));
    }
}

#[test]
fn the_parts_of_a_refused_packet_are_refused() {
    for frame in [v4_udp(&[7; 100]), v6_udp(&[7; 100])] {
        let mut bench = Bench::new(&["deny=any:80", "allow=any"]);
        let all = parts(&frame, 40);
        assert_eq!(bench.send(&all[0]), dropped(Reason::Rule));
        assert_eq!(bench.send(&all[1]), dropped(Reason::Fragment));
        assert_eq!(bench.send(&all[2]), dropped(Reason::Fragment));
        // Without a policy nobody decides about ports.
        let mut bench = Bench::open();
        for part in &all {
            assert_eq!(bench.send(part), Verdict::Pass);
        }
    }
}

#[test]
fn tiny_and_complete_fragments_are_refused() {
    let frame = v4_udp(&[7; 100]);
    // A first part of 8 bytes is the least, and has the ports.
    assert_eq!(open().send(&parts(&frame, 8)[0]), Verdict::Pass);
    let mut bench = open();
    let syn = Client::new("192.0.2.1", 443).syn();
    for part in parts(&syn, 8) {
        assert_eq!(bench.send(&part), dropped(Reason::Fragment));
    }
    // A fragment header, and nothing missing.
    let complete = &parts(&v6_udp(b"data"), 200)[0];
    assert_eq!(open().send(complete), dropped(Reason::Fragment));
    // Beyond the maximum length of a packet.
    let mut parts = parts(&frame, 40);
    set16(&mut parts[1], IP + 6, 0x3fff);
    assert_eq!(bench.send(&parts[1]), dropped(Reason::Fragment));
}

#[test]
fn packets_in_parts_are_bounded() {
    let mut bench = open();
    let all = parts(&v4_udp(&[7; 100]), 40);
    for id in 0..65 {
        let mut first = all[0].clone();
        set16(&mut first, IP + 4, id);
        assert_eq!(bench.send(&first), Verdict::Pass);
    }
    for (id, expected) in [
        (0, dropped(Reason::Fragment)),
        (1, Verdict::Pass),
        (64, Verdict::Pass),
    ] {
        let mut second = all[1].clone();
        set16(&mut second, IP + 4, id);
        assert_eq!(bench.send(&second), expected, "{id}");
    }
}
