//! Many connections, and half-closed connections.

use std::io::ErrorKind;

use super::*;

/// Opens the maximum number of connections, from port `first` on.
fn fill(guest: &mut Guest, streams: &Receiver<UnixStream>, first: u32) -> Vec<UnixStream> {
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.connect((first + port, 7));
    }
    streams.try_iter().collect()
}

/// Whether another connection is refused.
fn refuses(guest: &mut Guest) -> bool {
    let ports = (9999, 7);
    guest.send(ports, Op::Request, 0);
    let answer = guest.stray.pop_front().unwrap().0;
    guest.send(ports, Op::Reset, 0);
    answer.op == Op::Reset as u16
}

#[test]
fn thousands_of_short_connections_leave_none_behind() {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    for round in 0..5000 {
        let ports = (round, 7);
        guest.connect(ports);
        match round % 3 {
            0 => guest.send(ports, Op::Reset, 0),
            1 => guest.send(ports, Op::Shutdown, BOTH),
            _ => {
                guest.send_data(ports, b"last words");
                guest.send(ports, Op::Reset, 0);
            }
        }
        let mut left = Vec::new();
        streams.try_recv().unwrap().read_to_end(&mut left).unwrap();
        let expected: &[u8] = if round % 3 == 2 { b"last words" } else { b"" };
        assert_eq!(left, expected);
    }
    let kept = fill(&mut guest, &streams, 10_000);
    assert_eq!(kept.len(), MAX_CONNECTIONS);
    assert!(refuses(&mut guest));
}

#[test]
fn requests_above_the_limit_are_reset_and_others_are_unaffected() {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    let mut kept = fill(&mut guest, &streams, 0);
    for port in 0..1000 {
        guest.send((20_000 + port, 7), Op::Request, 0);
        assert_eq!(guest.stray.pop_front().unwrap().0.op, Op::Reset as u16);
    }
    assert_eq!(streams.try_iter().count(), 0, "no service was called");
    for (port, stream) in (0..).zip(&mut kept) {
        guest.send_data((port, 7), &[byte(port as usize)]);
        let mut got = [0];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, [byte(port as usize)]);
    }
    // After one has ended, there is room for another.
    guest.send((5, 7), Op::Reset, 0);
    guest.connect((30_000, 7));
    assert!(refuses(&mut guest));
}

#[test]
fn a_draining_connection_counts_until_the_host_has_read_it() {
    let (services, streams) = service();
    let mut guest = Guest::new(services);
    let kept = fill(&mut guest, &streams, 0);
    let data = vec![7; 64 << 10];
    for port in 0..MAX_CONNECTIONS as u32 {
        // More than the stream's own buffer holds.
        while guest.send_data((port, 7), &data) > 0 {}
        guest.send((port, 7), Op::Reset, 0);
    }
    assert!(refuses(&mut guest));
    drop(kept);
    while guest.wait(100) {}
    assert_eq!(fill(&mut guest, &streams, 40_000).len(), MAX_CONNECTIONS);
}

#[test]
fn a_guest_can_receive_after_closing_its_send_direction() {
    let (mut guest, mut stream) = connected();
    guest.send_data(PORTS, b"a question");
    guest.send(PORTS, Op::Shutdown, SHUTDOWN_SEND);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"a question");
    for round in 0..100usize {
        stream.write_all(&[byte(round); 1000]).unwrap();
        let mut answer = Vec::new();
        while answer.len() < 1000 {
            assert!(guest.wait(900));
            answer.extend(guest.read(PORTS));
        }
        assert_eq!(answer, [byte(round); 1000]);
    }
    drop(stream);
    while guest.sockets[&PORTS].shutdown & SHUTDOWN_SEND == 0 {
        assert!(guest.wait(900));
    }
}

#[test]
fn a_guest_can_send_after_closing_its_receive_direction() {
    let (mut guest, mut stream) = connected();
    guest.send(PORTS, Op::Shutdown, SHUTDOWN_RECEIVE);
    let error = stream.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    for round in 0..100 {
        assert_eq!(guest.send_data(PORTS, &[byte(round); 1000]), 1000);
        let mut got = [0; 1000];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, [byte(round); 1000]);
    }
    guest.send(PORTS, Op::Shutdown, SHUTDOWN_SEND);
    assert!(guest.sockets[&PORTS].reset, "both halves are closed");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_reset_is_never_answered() {
    let (mut guest, _stream) = connected();
    guest.send(PORTS, Op::Reset, 0);
    // Again, and for connections that never existed.
    for ports in [PORTS, (1, 7), (2, 9999)] {
        guest.send(ports, Op::Reset, 0);
    }
    let elsewhere = Header {
        dst_cid: 77,
        kind: 9,
        len: 100,
        ..guest.packet(PORTS, Op::Reset)
    };
    guest.send_raw(&elsewhere, &[]);
    assert!(!guest.sockets[&PORTS].reset);
    assert!(guest.stray.is_empty());
}
