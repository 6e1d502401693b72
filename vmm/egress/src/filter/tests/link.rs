//! Frames that use the addresses of others, with and without a policy.

use smoltcp::wire::{
    ArpOperation, EthernetProtocol, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr, NdiscRouterFlags,
    RawHardwareAddress,
};

use super::frames::{arp, echo, ethernet, icmpv6, udp};
use super::*;

fn both(frame: &[u8], with_policy: Verdict, without: Verdict) {
    assert_eq!(Bench::new(&["allow=any"]).send(frame), with_policy);
    assert_eq!(Bench::open().send(frame), without);
}

fn always(frame: &[u8], verdict: fn() -> Verdict) {
    both(frame, verdict(), verdict());
}

fn v6(text: &str) -> std::net::Ipv6Addr {
    text.parse().unwrap()
}

#[test]
fn the_sender_of_a_frame_is_the_guest() {
    let mut frame = udp((address("10.0.2.15"), 1), (address("192.0.2.1"), 80), b"");
    always(&frame, || Verdict::Pass);
    frame[6] ^= 2;
    always(&frame, || dropped(Reason::SourceMac));
}

#[test]
fn the_source_of_a_packet_is_the_guest() {
    for (source, to) in [
        ("10.0.2.16", "192.0.2.1"),
        ("0.0.0.0", "192.0.2.1"),
        ("192.0.2.1", "10.0.2.2"),
        ("fd00:1::3", "2001:db8::1"),
        ("fe80::1", "2001:db8::1"),
        ("::", "2001:db8::1"),
        ("::ffff:10.0.2.15", "2001:db8::1"),
    ] {
        let frame = udp((address(source), 1), (address(to), 80), b"");
        always(&frame, || dropped(Reason::SourceAddress));
        let frame = echo(address(source), address(to), 1, b"");
        always(&frame, || dropped(Reason::SourceAddress));
    }
    // Its own, also that which follows from its hardware address.
    let frame = udp(
        (address("fe80::5054:ff:fe12:3456"), 1),
        (address("fe80::1"), 80),
        b"",
    );
    always(&frame, || Verdict::Pass);
}

#[test]
fn destinations_that_could_be_the_host_itself_are_invalid() {
    for to in [
        "0.0.0.0",
        "127.0.0.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:192.0.2.1",
    ] {
        let to = address(to);
        always(&udp((own(to), 1), (to, 80), b""), || {
            dropped(Reason::Destination)
        });
    }
}

#[test]
fn only_ip_and_arp_leave() {
    let packet = udp((address("10.0.2.15"), 1), (address("192.0.2.1"), 80), b"");
    let packet = &packet[14..];
    for kind in [0x8100, 0x88a8, 0x9100] {
        let tagged = [&[0, 5, 8, 0][..], packet].concat();
        always(&ethernet(EthernetProtocol::Unknown(kind), &tagged), || {
            dropped(Reason::Vlan)
        });
    }
    for kind in [0, 46, 0x88cc, 0x8864, 0x8847] {
        always(&ethernet(EthernetProtocol::Unknown(kind), packet), || {
            dropped(Reason::EtherType)
        });
    }
}

#[test]
fn arp_speaks_for_the_guest() {
    let own = "10.0.2.15".parse().unwrap();
    let other = "10.0.2.2".parse().unwrap();
    let far = "192.0.2.1".parse().unwrap();
    let any = "0.0.0.0".parse().unwrap();
    for operation in [ArpOperation::Request, ArpOperation::Reply] {
        always(&arp(operation, (MAC, own), other), || Verdict::Pass);
        // Gratuitous.
        always(&arp(operation, (MAC, own), own), || Verdict::Pass);
        always(&arp(operation, (MAC, other), own), || dropped(Reason::Arp));
        always(&arp(operation, (GATEWAY_MAC, own), other), || {
            dropped(Reason::Arp)
        });
        // Asking for addresses of other networks would be a way to send data.
        both(
            &arp(operation, (MAC, own), far),
            dropped(Reason::Arp),
            Verdict::Pass,
        );
    }
    always(&arp(ArpOperation::Request, (MAC, any), own), || {
        Verdict::Pass
    });
    always(&arp(ArpOperation::Reply, (MAC, any), own), || {
        dropped(Reason::Arp)
    });
    always(&arp(ArpOperation::Unknown(3), (MAC, own), other), || {
        dropped(Reason::Malformed)
    });
    let mut frame = arp(ArpOperation::Request, (MAC, own), other);
    frame.resize(60, 0);
    always(&frame, || Verdict::Pass);
    frame.resize(65, 0);
    always(&frame, || dropped(Reason::Malformed));
    frame.truncate(14 + 27);
    always(&frame, || dropped(Reason::Malformed));
}

#[test]
fn neighbour_discovery_speaks_for_the_guest() {
    let own = v6("fd00:1::2");
    let all = v6("ff02::1");
    let link = |mac: &[u8; 6]| Some(RawHardwareAddress::from_bytes(mac));
    let solicit = |target, lladdr| {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr: target,
            lladdr,
        })
    };
    let advertise = |target, lladdr| {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::OVERRIDE,
            target_addr: target,
            lladdr,
        })
    };
    let group = v6("ff02::1:ff00:3");
    let near = v6("fd00:1::3");
    always(&icmpv6(own, group, &solicit(near, link(&MAC))), || {
        Verdict::Pass
    });
    always(&icmpv6(own, near, &solicit(near, None)), || Verdict::Pass);
    always(
        &icmpv6(own, group, &solicit(near, link(&GATEWAY_MAC))),
        || dropped(Reason::NeighborDiscovery),
    );
    // Duplicate address detection.
    always(
        &icmpv6(v6("::"), v6("ff02::1:ff00:2"), &solicit(own, None)),
        || Verdict::Pass,
    );
    let far = icmpv6(own, group, &solicit(v6("2001:db8::1"), link(&MAC)));
    both(&far, dropped(Reason::NeighborDiscovery), Verdict::Pass);
    let mut routed = icmpv6(own, group, &solicit(near, link(&MAC)));
    routed[14 + 7] = 64;
    both(&routed, dropped(Reason::NeighborDiscovery), Verdict::Pass);

    always(&icmpv6(own, all, &advertise(own, link(&MAC))), || {
        Verdict::Pass
    });
    for (target, mac) in [(near, MAC), (v6("fe80::1"), MAC), (own, GATEWAY_MAC)] {
        always(&icmpv6(own, all, &advertise(target, link(&mac))), || {
            dropped(Reason::NeighborDiscovery)
        });
    }
    // An option without an end.
    let mut frame = icmpv6(own, all, &advertise(own, link(&MAC)));
    frame[14 + 40 + 24 + 1] = 0;
    always(&frame, || dropped(Reason::NeighborDiscovery));
}

#[test]
fn a_guest_is_no_router_and_no_dhcp_server() {
    let own6 = v6("fd00:1::2");
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: smoltcp::time::Duration::from_secs(1800),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    });
    let frame = icmpv6(own6, v6("ff02::1"), &advertisement);
    always(&frame, || dropped(Reason::NeighborDiscovery));
    let solicitation = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
    always(&icmpv6(own6, v6("ff02::2"), &solicitation), || {
        Verdict::Pass
    });
    // A redirect, as a changed echo request.
    let mut frame = echo(own6.into(), address("fd00:1::3"), 1, &[0; 40]);
    frame[14 + 40] = 137;
    always(&frame, || dropped(Reason::NeighborDiscovery));
    for kind in [5, 9] {
        let mut frame = echo(address("10.0.2.15"), address("10.0.2.2"), 1, &[0; 40]);
        frame[14 + 20] = kind;
        always(&frame, || dropped(Reason::NeighborDiscovery));
    }
    let own = address("10.0.2.15");
    always(&udp((own, 67), (address("10.0.2.2"), 68), b""), || {
        dropped(Reason::Dhcp)
    });
    always(
        &udp((own6.into(), 547), (address("fe80::1"), 546), b""),
        || dropped(Reason::Dhcp),
    );
    // As a client, where no policy says that its addresses are fixed.
    let mut frame = udp(
        (address("0.0.0.0"), 68),
        (address("255.255.255.255"), 67),
        b"",
    );
    frame[..6].copy_from_slice(&[0xff; 6]);
    both(&frame, dropped(Reason::Dhcp), Verdict::Pass);
    let frame = udp(
        (address("0.0.0.0"), 69),
        (address("255.255.255.255"), 67),
        b"",
    );
    always(&frame, || dropped(Reason::SourceAddress));
}

#[test]
fn messages_hidden_behind_extension_headers_are_found() {
    let own = v6("fd00:1::2");
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: v6("fe80::1"),
        lladdr: Some(RawHardwareAddress::from_bytes(&MAC)),
    });
    let frame = icmpv6(own, v6("ff02::1"), &advertisement);
    let chain = |kinds: &[u8]| {
        let mut bytes = frame.clone();
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8 * kinds.len() as u16;
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        bytes[20] = kinds[0];
        let headers: Vec<u8> = (0..kinds.len())
            .flat_map(|number| [*kinds.get(number + 1).unwrap_or(&58), 0, 1, 4, 0, 0, 0, 0])
            .collect();
        bytes.splice(54..54, headers);
        bytes
    };
    for kinds in [&[0][..], &[60], &[43], &[0, 60], &[60, 60, 60, 60, 60, 60]] {
        always(&chain(kinds), || dropped(Reason::NeighborDiscovery));
    }
    always(&chain(&[60; 7]), || dropped(Reason::ExtensionHeader));
    always(&chain(&[60, 0]), || dropped(Reason::ExtensionHeader));
    // In a fragment (RFC 6980).
    let mut bytes = chain(&[44]);
    bytes[56..58].copy_from_slice(&[0, 1]);
    always(&bytes, || dropped(Reason::Fragment));
}
