//! The socket device, with the test guest.

mod hostile;
mod storms;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::packet::{Op, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::virtio::testing::vsock::{EVENT_BUFFER, Guest, Socket};
use crate::virtio::testing::writable;

const BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;
const PORTS: (u32, u32) = (1000, 7);

/// A service on port 7, and its accepted streams.
fn service() -> (Services, Receiver<UnixStream>) {
    let (sender, receiver) = mpsc::channel();
    (
        Services::new().with(7, move |stream| sender.send(stream).unwrap()),
        receiver,
    )
}

/// A guest with one connection to the service, and the host's end of it.
fn connected() -> (Guest, UnixStream) {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    guest.connect(PORTS);
    (guest, streams.try_recv().unwrap())
}

/// A pattern in which nearby positions differ.
fn byte(position: usize) -> u8 {
    (position ^ position >> 8 ^ position >> 16).wrapping_mul(151) as u8
}

#[test]
fn a_hundred_megabytes_pass_each_way_at_once() {
    const TOTAL: usize = 100_000_000;
    let (mut guest, stream) = connected();
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
    let sender = thread::spawn(move || {
        let mut at = 0;
        while at < TOTAL {
            let chunk: Vec<u8> = (at..TOTAL.min(at + 50_000)).map(byte).collect();
            writer.write_all(&chunk).unwrap();
            at += chunk.len();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let receiver = thread::spawn(move || {
        let mut bytes = vec![0; 70_000];
        let mut at = 0;
        loop {
            let n = reader.read(&mut bytes).unwrap();
            if n == 0 {
                return at;
            }
            assert!(
                bytes[..n]
                    .iter()
                    .zip(at..)
                    .all(|(&got, at)| got == byte(at)),
                "at {at}"
            );
            at += n;
        }
    });
    let (mut sent, mut got) = (0, 0);
    let mut idle = 0;
    while sent < TOTAL || got < TOTAL {
        let chunk: Vec<u8> = (sent..TOTAL.min(sent + 64_000)).map(byte).collect();
        let n = guest.send_data(PORTS, &chunk);
        sent += n;
        let data = guest.read(PORTS);
        assert!(
            data.iter().zip(got..).all(|(&b, at)| b == byte(at)),
            "at {got}"
        );
        got += data.len();
        idle = if n == 0 && data.is_empty() && !guest.wait(900) {
            idle + 1
        } else {
            0
        };
        assert!(
            idle < 10,
            "stuck: {sent} sent, {got} received {:?}",
            guest.device
        );
    }
    guest.send(PORTS, Op::Shutdown, SHUTDOWN_SEND);
    while guest.sockets[&PORTS].shutdown & SHUTDOWN_SEND == 0 {
        assert!(guest.wait(900));
    }
    sender.join().unwrap();
    // The host may still be reading the backlog.
    while !receiver.is_finished() {
        guest.wait(50);
    }
    assert_eq!(receiver.join().unwrap(), TOTAL);
}

#[test]
fn the_host_connects_and_each_side_closes_separately() {
    let mut guest = Guest::new(Services::new());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.handle.connect(5000, theirs);
    let (request, _) = guest.next_stray();
    assert_eq!((request.op, request.dst_port), (Op::Request as u16, 5000));
    let ports = (5000, request.src_port);
    guest.sockets.insert(ports, Socket::default());
    guest.send(ports, Op::Response, 0);

    ours.write_all(b"to the guest").unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    while guest.sockets[&ports].shutdown == 0 {
        assert!(guest.wait(900));
    }
    assert_eq!(guest.read(ports), b"to the guest");
    assert_eq!(guest.sockets[&ports].shutdown, SHUTDOWN_SEND);

    guest.send_data(ports, b"to the host");
    guest.send(ports, Op::Shutdown, BOTH);
    assert!(
        guest.sockets[&ports].reset,
        "the shutdown must be confirmed"
    );
    let mut got = Vec::new();
    ours.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"to the host");
}

#[test]
fn a_restored_guest_is_told_that_its_streams_are_gone_before_others_are_opened() {
    let mut guest = Guest::new(Services::new());
    // As Linux: all buffers are offered.
    for _ in 1..8 {
        guest.driver.offer(EVENT, &[writable(EVENT_BUFFER, 8)]);
    }
    guest.device.announce_reset().unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    guest.handle.connect(5000, theirs);
    assert!(guest.wait(900));
    assert!(guest.stray.is_empty());
    let told = guest
        .driver
        .used(EVENT)
        .into_iter()
        .map(|(_, length)| length);
    assert_eq!(
        told.collect::<Vec<_>>(),
        [4, 0, 0, 0, 0, 0, 0, 0],
        "one event"
    );
    assert_eq!(guest.driver.read(EVENT_BUFFER, 4), [0; 4]);
    assert_eq!(guest.driver.notified[EVENT], 1);
    // Nothing is opened by whatever else happens meanwhile.
    guest.handle.wake();
    assert!(guest.wait(900));
    assert!(guest.stray.is_empty());
    guest.driver.offer(EVENT, &[writable(EVENT_BUFFER, 8)]);
    assert!(guest.driver.ring(EVENT).must_notify(true));
    guest.device.queue_event(EVENT, &mut guest.driver).unwrap();
    guest.offer_buffers(0);
    let (request, _) = guest.next_stray();
    assert_eq!((request.op, request.dst_port), (Op::Request as u16, 5000));
    assert_eq!(guest.driver.used(EVENT), [], "it is told once");
}

#[test]
fn a_refused_connection_closes_the_stream() {
    let mut guest = Guest::new(Services::new());
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.handle.connect(5000, theirs);
    let (request, _) = guest.next_stray();
    guest.send((5000, request.src_port), Op::Reset, 0);
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    assert!(guest.stray.is_empty(), "a reset is not answered");
}

#[test]
fn a_hang_up_of_the_host_is_reported_to_the_guest() {
    let (mut guest, mut stream) = connected();
    stream.write_all(b"last words").unwrap();
    drop(stream);
    while guest.sockets[&PORTS].shutdown != BOTH {
        assert!(guest.wait(900));
    }
    assert_eq!(guest.read(PORTS), b"last words");
    // Data that the guest sends after that is discarded.
    guest.send_data(PORTS, b"too late");
    assert!(!guest.sockets[&PORTS].reset);
}

#[test]
fn a_hang_up_before_the_guest_answers_is_reported_too() {
    let mut guest = Guest::new(Services::new());
    let (ours, theirs) = UnixStream::pair().unwrap();
    guest.handle.connect(5000, theirs);
    let (request, _) = guest.next_stray();
    drop(ours);
    let (reset, _) = guest.next_stray();
    assert_eq!(
        (reset.op, reset.src_port),
        (Op::Reset as u16, request.src_port)
    );
}

#[test]
fn a_host_that_does_not_read_stalls_only_its_connection() {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    let (slow, quick) = ((1000, 7), (1001, 7));
    guest.connect(slow);
    let mut slow_host = streams.try_recv().unwrap();
    guest.connect(quick);
    let mut quick_host = streams.try_recv().unwrap();
    let data: Vec<u8> = (0..4 << 20).map(byte).collect();
    let mut sent = 0;
    loop {
        let n = guest.send_data(slow, &data[sent..]);
        if n == 0 && !guest.wait(0) {
            break;
        }
        sent += n;
    }
    assert!(sent > BUF_ALLOC as usize && sent < data.len());

    guest.send_data(quick, b"quick");
    let mut got = [0; 5];
    quick_host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"quick");
    assert!(!guest.wait(20), "no wake-ups without work");

    // The guest resets the connection; the data that it sent still arrives.
    guest.send(slow, Op::Shutdown, BOTH);
    guest.send(slow, Op::Reset, 0);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        slow_host.read_to_end(&mut got).unwrap();
        got
    });
    while !reader.is_finished() {
        guest.wait(50);
    }
    assert!(reader.join().unwrap() == data[..sent]);
}

#[test]
fn a_guest_without_buffers_causes_no_wake_ups() {
    let (services, streams) = service();
    let mut guest = Guest::without_buffers(services);
    guest.sockets.insert(PORTS, Socket::default());
    guest.send(PORTS, Op::Request, 0);
    let mut stream = streams.try_recv().unwrap();
    stream.write_all(b"waits").unwrap();
    drop(stream);
    while guest.wait(20) {}
    guest.offer_buffers(4);
    while guest.sockets[&PORTS].shutdown != BOTH {
        assert!(guest.wait(900));
    }
    assert_eq!(guest.read(PORTS), b"waits");
}

#[test]
fn tiny_packets_are_limited_until_the_guest_has_read() {
    const TOTAL: usize = 400;
    let (mut guest, mut stream) = connected();
    let mut got = Vec::new();
    // Not many more than the limit, because the host's stream also has overhead for each.
    for at in 0..TOTAL {
        stream.write_all(&[byte(at)]).unwrap();
        // Each byte is sent in a packet of its own, or waits in the stream at the limit.
        guest.wait(if guest.sockets[&PORTS].credit_requests == 0 {
            900
        } else {
            0
        });
    }
    assert_eq!(guest.sockets[&PORTS].inbox.len(), 256);
    while got.len() < TOTAL {
        got.extend(guest.read(PORTS));
        assert!(guest.wait(900), "{} bytes received", got.len());
    }
    assert_eq!(got, (0..TOTAL).map(byte).collect::<Vec<_>>());
}

#[test]
fn credit_requests_to_a_guest_that_does_not_read_back_off() {
    let (mut guest, mut stream) = connected();
    while guest.sockets[&PORTS].credit_requests == 0 {
        stream.write_all(&[1]).unwrap();
        guest.wait(900);
    }
    let requested = Instant::now();
    while guest.sockets[&PORTS].credit_requests < 7 {
        assert!(guest.wait(900));
    }
    // After 10, 20, 40, 80, 160 and 320 ms.
    let after = requested.elapsed();
    assert!(after >= Duration::from_millis(600), "{after:?}");

    // For a guest that reads, the delay is reset.
    guest.read(PORTS);
    while guest.sockets[&PORTS].inbox.is_empty() {
        stream.write_all(&[2]).unwrap();
        assert!(guest.wait(900));
    }
    let before = guest.sockets[&PORTS].credit_requests;
    while guest.sockets[&PORTS].credit_requests == before {
        stream.write_all(&[3]).unwrap();
        guest.wait(900);
    }
    let requested = Instant::now();
    while guest.sockets[&PORTS].credit_requests < before + 3 {
        assert!(guest.wait(900));
    }
    let after = requested.elapsed();
    assert!(after < Duration::from_millis(300), "{after:?}");
}

#[test]
fn a_device_reset_closes_all_connections() {
    let (mut guest, mut stream) = connected();
    guest.device.reset();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let mut config = [0xff; 12];
    guest.device.read_config(0, &mut config);
    assert_eq!(config, [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
}
