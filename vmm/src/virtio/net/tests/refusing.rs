//! Frames that the guest's policy refuses.

use microagent_egress::{Filter, Guest, Policy};

use super::*;

/// A UDP datagram without data from 10.0.2.15 to port 5000 of 198.51.100.1.
const DATAGRAM: [u8; 42] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
    0x45, 0, 0, 28, 0, 0, 0x40, 0, 0x40, 17, 0x04, 0x8e, 10, 0, 2, 15, 198, 51, 100,
    1, // IPv4
    0x30, 0x39, 0x13, 0x88, 0, 8, 0, 0, // UDP without a checksum
];

/// An active device that lets nothing pass, its driver, and the state of its backend.
fn refusing() -> (Net, Driver, Arc<Mutex<State>>) {
    let (device, _, state) = active(0);
    let guest = Guest {
        mac: [2, 0, 0, 0, 0, 1],
        ipv4: Some("10.0.2.15/24".parse().unwrap()),
        ipv6: Vec::new(),
        gateways: Vec::new(),
    };
    let policy = Policy::parse::<&str>([]).unwrap();
    let filter = Filter::new(Some(policy), guest);
    let mut device = device.with_filter(Arc::new(Mutex::new(filter)));
    let mut driver = Driver::new(&device, 4 << 20);
    device.activate(&mut driver).unwrap();
    (device, driver, state)
}

fn send(device: &mut Net, driver: &mut Driver) {
    let at = BUFFERS + 0x1_0000;
    driver.write(at, &Header::default().encode());
    driver.write(at + 64, &DATAGRAM);
    let pieces = [
        readable(at, HEADER_LEN as u32),
        readable(at + 64, DATAGRAM.len() as u32),
    ];
    driver.offer(TX, &pieces);
    device.queue_event(TX, driver).unwrap();
    assert_eq!(driver.used(TX).len(), 1);
}

#[test]
fn the_guest_is_told_at_once_that_a_frame_was_refused() {
    let (mut device, mut driver, state) = refusing();
    let buffer = driver.offer(RX, &[writable(BUFFERS, 2000)]);
    device.queue_event(RX, &mut driver).unwrap();
    send(&mut device, &mut driver);
    assert!(state.lock().unwrap().outgoing.is_empty());
    // Ethernet, IPv4, ICMP with the header and 8 bytes of what it is about.
    let answer = HEADER_LEN + 14 + 20 + 8 + 28;
    assert_eq!(driver.used(RX), [(buffer, answer as u32)]);
    let bytes = driver.read(BUFFERS, answer);
    let frame = &bytes[HEADER_LEN..];
    assert_eq!(frame[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    // ICMP: communication administratively prohibited (RFC 1812, section 5.2.7.1).
    assert_eq!((frame[23], &frame[34..36]), (1, &[3, 13][..]));
    assert_eq!(frame[42..], DATAGRAM[14..]);
}

#[test]
fn answers_wait_for_buffers_and_are_bounded() {
    let (mut device, mut driver, state) = refusing();
    for _ in 0..1000 {
        send(&mut device, &mut driver);
    }
    let mut answers = 0;
    loop {
        driver.offer(RX, &[writable(BUFFERS, 2000)]);
        device.queue_event(RX, &mut driver).unwrap();
        match driver.used(RX).len() {
            0 => break,
            count => answers += count,
        }
    }
    assert_eq!(answers, 64);
    // Frames of others pass afterwards.
    let frame = (Header::default(), vec![7; 60]);
    state.lock().unwrap().incoming.push_back(frame);
    device.backend_event(&mut driver).unwrap();
    assert_eq!(driver.used(RX).len(), 1);
}
