//! Properties of the filters, for the fuzz targets in `fuzz/`. Each function panics if its property
//! does not hold for the given bytes. Not part of the API.

use std::time::{Duration, Instant};

use crate::dns::{Answerer, Decision, Response, Transport};
use crate::{
    BareReset, Filter, Guest, GuestFrame, GuestSegment, Pin, Policy, Syn, TCP_HEADERS, Tally,
    Transmission, Verdict,
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OWN: [u8; 4] = [10, 0, 2, 15];
const OWN_6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// The address that follows from the hardware address.
const OWN_LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];
/// The address of an allowed name.
const NAMED: [u8; 4] = [192, 0, 2, 1];
/// An address that is allowed by a rule, to one port.
const ALLOWED: [u8; 4] = [198, 51, 100, 1];
const PORT: u16 = 443;
/// What follows this byte is a frame from the network, or time that passes; else a frame of the guest.
const INBOUND: u8 = 1;
const WAIT: u8 = 2;

fn policy() -> Policy {
    Policy::parse(["allow=good.example", "allow=198.51.100.1:443"]).expect("valid rules")
}

fn guest() -> Guest {
    Guest {
        mac: MAC,
        ipv4: "10.0.2.15/24".parse().ok(),
        ipv6: vec!["fd00::2/64".parse().expect("a network")],
        gateways: Vec::new(),
    }
}

/// Frames of a guest and of its network: a kind of one byte, a length of two, and as many bytes.
///
/// What leaves is sent by the guest, from its own addresses, as IPv4, IPv6 or ARP; IPv4 goes only to
/// the two addresses that are allowed, and not to DNS servers.
pub fn egress_frames(data: &[u8]) {
    let mut filter = Filter::new(Some(policy()), guest());
    let mut open = Filter::new(None, guest());
    let mut now = Instant::now();
    let pin = Pin {
        name: "good.example".parse().expect("a name"),
        addresses: vec![NAMED.into()],
        lifetime: Duration::from_secs(100),
    };
    filter.pin(&pin, now);
    let mut rest = data;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (bytes, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        rest = after;
        match *kind {
            INBOUND => filter.inbound(bytes, bytes.len()),
            WAIT => now += Duration::from_millis(length as u64),
            _ => {
                read_handshake(bytes);
                let passed = check(&mut filter, bytes, now);
                for frame in &passed {
                    may_leave(frame);
                    may_leave_by_rules(frame);
                }
                for frame in check(&mut open, bytes, now) {
                    may_leave(&frame);
                }
            }
        }
    }
}

/// A frame has the same SYN however much of it is given, a reset that acknowledges something is
/// none that does not, and a segment that is made like another is of the same connection.
fn read_handshake(bytes: &[u8]) {
    let headers = bytes.get(..TCP_HEADERS).unwrap_or(bytes);
    let syn = Syn::read(headers, bytes.len());
    assert!(syn.is_none() || syn == Syn::read(bytes, bytes.len()));
    let transmission = Transmission::read(headers, bytes.len());
    match GuestSegment::read(headers, bytes.len()) {
        Some(GuestSegment::Syn(read)) => assert!(syn == Some(read) && transmission.is_none()),
        Some(GuestSegment::Data(_)) => assert!(syn.is_none() && transmission.is_some()),
        None => assert!(syn.is_none() && transmission.is_none()),
    }
    if let Some(segment) = transmission {
        let frame = segment.with_byte_at(segment.end);
        let next = Transmission::read(&frame, frame.len()).expect("it is a segment");
        let end = segment.end.wrapping_add(1);
        assert!(next.between == segment.between && next.sequence == segment.end && next.end == end);
    }
    let mut frame = bytes.to_vec();
    if let Some(reset) = BareReset::read(&mut frame) {
        reset.acknowledge(0);
        assert!(BareReset::read(&mut frame).is_none());
    }
}

/// The frames that leave when the guest sends one.
fn check(filter: &mut Filter, bytes: &[u8], now: Instant) -> Vec<Vec<u8>> {
    let mut given = Filter::HEADERS;
    loop {
        let frame = GuestFrame {
            bytes: bytes.get(..given).unwrap_or(bytes),
            len: bytes.len(),
            header: &[],
        };
        match filter.check(&frame, now) {
            Verdict::Pass => return vec![bytes.to_vec()],
            Verdict::PassAfter(held) => {
                let held = held.into_iter().map(|held| held.bytes);
                return held.chain([bytes.to_vec()]).collect();
            }
            Verdict::Hold | Verdict::Drop(_) => return Vec::new(),
            Verdict::NeedMore(more) => {
                assert!(more > given && more <= Filter::MOST);
                given = more;
            }
        }
    }
}

fn may_leave(frame: &[u8]) {
    assert_eq!(frame[6..12], MAC);
    match frame[12..14] {
        [8, 0] => {
            let is_dhcp = frame[26..34] == [0, 0, 0, 0, 255, 255, 255, 255];
            assert!(frame[26..30] == OWN || is_dhcp);
            assert!(frame[30] != 127 && frame[30] != 0);
        }
        [8, 6] => {
            assert_eq!(frame[22..28], MAC);
            assert!(frame[28..32] == OWN || frame[28..32] == [0; 4]);
        }
        [0x86, 0xdd] => {
            assert!([OWN_6, OWN_LINK_LOCAL, [0; 16]].contains(&array(&frame[22..])));
            assert_ne!(frame[38..46], [0; 8]);
            let length = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            if frame[20] == 58 {
                may_tell(&frame[54..54 + length]);
            }
        }
        _ => panic!("a frame of another type left"),
    }
}

/// Neighbour discovery tells no hardware address but the guest's, and speaks for its addresses only.
fn may_tell(message: &[u8]) {
    let mut options = match message[0] {
        133 => &message[8..],
        135 => &message[24..],
        136 => {
            assert!([OWN_6, OWN_LINK_LOCAL].contains(&array(&message[8..])));
            &message[24..]
        }
        kind => return assert!(!(133..=137).contains(&kind)),
    };
    while let [kind, words, ..] = *options {
        let (option, rest) = options.split_at(usize::from(words) * 8);
        assert!(![1, 2].contains(&kind) || option[2..] == MAC);
        options = rest;
    }
}

fn array(bytes: &[u8]) -> [u8; 16] {
    bytes[..16].try_into().expect("16 bytes")
}

fn may_leave_by_rules(frame: &[u8]) {
    if frame[12..14] != [8, 0] {
        return;
    }
    assert_eq!(frame[14], 0x45);
    let is_later_part = frame[20] & 0x1f != 0 || frame[21] != 0;
    // A later part may be shorter than a header.
    let port = frame
        .get(36..38)
        .map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let has_ports = matches!(frame[23], 6 | 17);
    if frame[30..34] == ALLOWED {
        assert!(has_ports && (is_later_part || port == PORT));
    } else {
        assert_eq!(frame[30..34], NAMED);
        assert!(has_ports || frame[23] == 1);
        let is_dns = [53, 853, 5353, 5355].contains(&port);
        assert!(!has_ports || is_later_part || !is_dns);
    }
}

/// A query of a guest and the response of a server: the query's length, one byte, comes first.
///
/// Only one name is asked for, and only public addresses are pinned and shown.
pub fn egress_dns(data: &[u8]) {
    let Some((&length, data)) = data.split_first() else {
        return;
    };
    let (query, upstream) = data.split_at_checked(length.into()).unwrap_or((data, &[]));
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut tally = Tally::default();
        let open = Answerer::new(None);
        if let Decision::Forward(forward) = open.query(query, transport, 7, &mut tally) {
            open.response(&forward, upstream, transport, &mut tally);
        }
        let answerer = Answerer::new(Some(policy()));
        let forward = match answerer.query(query, transport, 7, &mut tally) {
            Decision::Forward(forward) => forward,
            Decision::Respond(response) => {
                assert!(response.len() <= 512 && response[..2] == query[..2]);
                continue;
            }
            Decision::Ignore => continue,
        };
        let sent = forward.message.to_ascii_lowercase();
        assert_eq!(sent[12..26], *b"\x04good\x07example\0");
        assert_eq!(sent.len(), 26 + 4 + 11);
        let response = answerer.response(&forward, upstream, transport, &mut tally);
        let Response::Answer { message, pin } = response else {
            continue;
        };
        assert_eq!(message[..2], query[..2]);
        if let Some(pin) = pin {
            assert_eq!(pin.name.as_str(), "good.example");
            for address in pin.addresses {
                assert!(!crate::address::is_private(address));
            }
        }
    }
}
