//! The network device on a TAP interface, with the host's kernel as the peer.

use microagent_vmm::virtio::Segments;
use microagent_vmm::virtio::net::{
    Backend, Header, Mac, Net, Offloads, SendOutcome, TX, Tap, TapError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use vm_memory::VolatileSlice;

use crate::namespace::{self, ip};
use crate::net::{Driver, receive_matching};
use crate::{TransportKind, on_every_transport};

on_every_transport!(the_host_kernel_answers_arp_and_ping);

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const HOST_IP: [u8; 4] = [10, 0, 0, 1];
const GUEST_IP: [u8; 4] = [10, 0, 0, 2];

/// The ones' complement sum of RFC 1071, not complemented.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn ethernet(to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &GUEST_MAC, &kind.to_be_bytes(), payload].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header.extend(GUEST_IP);
    header.extend(HOST_IP);
    let checksum = !sum(&[&header]);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&header, payload].concat()
}

fn echo(payload: &[u8]) -> Vec<u8> {
    let mut packet = [&[8, 0, 0, 0, 0, 7, 0, 1], payload].concat();
    let checksum = !sum(&[&packet]);
    packet[2..4].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn the_host_kernel_answers_arp_and_ping(kind: TransportKind) {
    namespace::within(move || {
        let tap = Tap::open("tap0").unwrap();
        ip("address add 10.0.0.1/24 dev tap0");
        ip("link set tap0 up");
        let device = Net::new(Mac::new(GUEST_MAC).unwrap(), Box::new(tap));
        let (device, interrupts) = kind.attach(Box::new(device), 0, TX as u16);
        let mut driver: Driver = VirtIONet::new(device, 2048).unwrap();

        let ask = [0, 1, 8, 0, 6, 4, 0, 1];
        let ask = [&ask[..], &GUEST_MAC, &GUEST_IP, &[0; 6], &HOST_IP].concat();
        let frame = ethernet([0xff; 6], 0x0806, &ask);
        driver.send(TxBuffer::from(&frame)).unwrap();
        let answer = receive_matching(&mut driver, &interrupts, |frame| frame[12..14] == [8, 6]);
        assert_eq!(answer[20..22], [0, 2]);
        assert_eq!(answer[28..32], HOST_IP);
        let host: [u8; 6] = answer[22..28].try_into().unwrap();

        for len in [0, 1, 56, 1000, 1472] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let frame = ethernet(host, 0x0800, &ipv4(1, &echo(&payload)));
            driver.send(TxBuffer::from(&frame)).unwrap();
            let is_reply = |frame: &[u8]| frame[12..14] == [8, 0] && frame[34] == 0;
            let reply = receive_matching(&mut driver, &interrupts, is_reply);
            assert_eq!(reply[..6], GUEST_MAC);
            assert!(reply[42..] == payload, "{len} bytes");
            assert_eq!(sum(&[&reply[34..]]), 0xffff);
        }
    });
}

#[test]
fn invalid_interface_names_are_rejected() {
    for name in ["", "sixteen-letters-", "a\0b"] {
        let error = Tap::open(name).unwrap_err();
        assert!(matches!(error, TapError::Name(_)), "{error}");
    }
}

/// The next frame from the guest's address that arrives at a tap within the timeout.
fn next(tap: &mut Tap, milliseconds: i64) -> Option<(Header, Vec<u8>)> {
    loop {
        if let Some(frame) = tap.front() {
            let (header, data) = (frame.header, frame.data.to_vec());
            tap.pop();
            if data[6..12] == GUEST_MAC {
                return Some((header, data));
            }
            continue;
        }
        if !tap.link_up() {
            return None;
        }
        tap.set_interest(true, false).unwrap();
        let limit = Timespec {
            tv_sec: milliseconds / 1000,
            tv_nsec: milliseconds % 1000 * 1_000_000,
        };
        let fd = tap.poll_fd();
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
            return None;
        }
    }
}

fn send(tap: &mut Tap, header: Header, frame: &[u8]) {
    let mut memory = frame.to_vec();
    let segments = Segments::from(VolatileSlice::from(&mut memory[..]));
    assert_eq!(tap.send(header, segments), SendOutcome::Accepted);
}

/// Sends a TSO frame over a kernel bridge to another tap. The kernel segments it unless the other
/// tap accepts TSO frames.
#[test]
fn the_kernel_does_what_the_receiver_does_not_accept() {
    namespace::within(|| {
        let (mut from, mut to) = (Tap::open("from").unwrap(), Tap::open("to").unwrap());
        ip("link add bridge type bridge");
        ip("link set bridge up");
        for tap in ["from", "to"] {
            ip(&format!("link set {tap} master bridge"));
            ip(&format!("link set {tap} up"));
        }
        // A bridge reports that it is up a little before it forwards.
        let probe = ethernet([0xff; 6], 0x88b5, &[0; 50]);
        let arrived = (0..300).any(|_| {
            send(&mut from, Header::default(), &probe);
            next(&mut to, 100).is_some()
        });
        assert!(arrived, "the bridge does not forward");
        while next(&mut to, 0).is_some() {}

        let payload: Vec<u8> = (0..8000).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut tcp = vec![
            0, 80, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
        ];
        let pseudo = |len: u16| [&GUEST_IP[..], &HOST_IP, &[0, 6], &len.to_be_bytes()].concat();
        tcp[16..18].copy_from_slice(&sum(&[&pseudo(8020)]).to_be_bytes());
        let packet = ipv4(6, &[&tcp[..], &payload].concat());
        let frame = ethernet([0x52, 0x54, 0, 9, 9, 9], 0x0800, &packet);
        let header = Header {
            flags: 1,
            gso_type: 1,
            hdr_len: 54,
            gso_size: 1460,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 0,
        };

        send(&mut from, header, &frame);
        let mut whole = Vec::new();
        for n in 0..6 {
            let (header, segment) = next(&mut to, 30_000).unwrap();
            assert_eq!((header.flags & 1, header.gso_type), (0, 0), "segment {n}");
            let tcp = &segment[34..];
            assert_eq!(
                sum(&[&pseudo(tcp.len() as u16), tcp]),
                0xffff,
                "segment {n}"
            );
            whole.extend_from_slice(&tcp[20..]);
        }
        assert!(whole == payload);

        to.set_rx_offloads(Offloads {
            checksum: true,
            tso4: true,
            tso6: false,
        })
        .unwrap();
        send(&mut from, header, &frame);
        let (got, data) = next(&mut to, 30_000).unwrap();
        let fields = (got.flags, got.gso_type, got.gso_size, got.csum_start);
        assert_eq!(fields, (1, 1, 1460, 34));
        assert!(data == frame);

        // Deleted, not just set down.
        ip("link delete to");
        assert_eq!(next(&mut to, 30_000), None);
        assert!(!to.link_up());
        assert!(Tap::new(std::fs::File::open("/dev/null").unwrap().into()).is_err());
    });
}
