//! Connections that their first data decide about.

use super::*;
use crate::tls::tests::{hello_of, rustls_hello};

const RULES: &[&str] = &["allow=good.example:443", "allow=*.good.example"];

/// A filter in which an allowed name has an address, and a connection to it.
fn connected() -> (Bench, Client) {
    let mut bench = Bench::new(RULES);
    bench.pin("good.example", &["192.0.2.1", "2001:db8::1"], 60);
    let client = Client::new("192.0.2.1", 443);
    bench.connect(&client);
    (bench, client)
}

fn held(frames: &[Vec<u8>]) -> Verdict {
    let frames = frames.iter().map(|bytes| HeldFrame {
        header: HEADER.to_vec(),
        bytes: bytes.clone(),
    });
    Verdict::PassAfter(frames.collect())
}

#[test]
fn the_allowed_name_passes_and_its_sibling_does_not() {
    for to in ["192.0.2.1", "2001:db8::1"] {
        let mut bench = connected().0;
        let client = Client::new(to, 443);
        bench.connect(&client);
        let hello = rustls_hello("good.example");
        assert_eq!(bench.send(&client.data(0, &hello)), Verdict::Pass);
        let end = hello.len() as u32;
        assert_eq!(bench.send(&client.data(end, b"more")), Verdict::Pass);

        let client = Client {
            source_port: 40001,
            ..client
        };
        bench.connect(&client);
        let hello = rustls_hello("bad.example");
        for _ in 0..2 {
            let verdict = bench.send(&client.data(0, &hello));
            assert_eq!(verdict, dropped(Reason::ServerName));
        }
        // Nothing follows, not even an end.
        for frame in [client.data(hello.len() as u32, b"more"), client.ack()] {
            assert_eq!(bench.send(&frame), dropped(Reason::ServerName));
        }
        let refusal = &bench.filter.tally().refusals()[0];
        assert_eq!(refusal.to.name, Some("bad.example".parse().unwrap()));
        assert_eq!(refusal.count, 1);
        assert_eq!(bench.filter.tally().count(Reason::ServerName), 4);
    }
}

#[test]
fn a_name_is_allowed_only_where_it_was_answered() {
    // The rule allows it, but the address is not one of its addresses.
    let (mut bench, client) = connected();
    bench.pin("x.good.example", &["192.0.2.2"], 60);
    let verdict = bench.send(&client.data(0, &rustls_hello("x.good.example")));
    assert_eq!(verdict, dropped(Reason::ServerName));
    let (mut bench, client) = connected();
    bench.pin("x.good.example", &["192.0.2.1"], 60);
    let verdict = bench.send(&client.data(0, &rustls_hello("x.good.example")));
    assert_eq!(verdict, Verdict::Pass);
    // The pin may end during the handshake.
    let (mut bench, client) = connected();
    bench.wait(61);
    let verdict = bench.send(&client.data(0, &rustls_hello("good.example")));
    assert_eq!(verdict, Verdict::Pass);
}

#[test]
fn parts_of_a_hello_are_held_until_it_is_complete() {
    let hello = rustls_hello("good.example");
    for size in [1 + hello.len() / 3, 1 + hello.len() / 64] {
        let (mut bench, client) = connected();
        let parts: Vec<Vec<u8>> = hello
            .chunks(size)
            .enumerate()
            .map(|(number, part)| client.data((number * size) as u32, part))
            .collect();
        let (last, first) = parts.split_last().unwrap();
        for part in first {
            assert_eq!(bench.send(part), Verdict::Hold);
            // Sent again, because nothing was acknowledged.
            assert_eq!(bench.send(part), Verdict::Hold);
            assert_eq!(bench.send(&client.ack()), Verdict::Pass);
        }
        assert_eq!(bench.send(last), held(first));
        assert_eq!(bench.send(last), Verdict::Pass);
    }
    let (mut bench, client) = connected();
    let hello = rustls_hello("bad.example");
    assert_eq!(bench.send(&client.data(0, &hello[..100])), Verdict::Hold);
    let rest = client.data(100, &hello[100..]);
    assert_eq!(bench.send(&rest), dropped(Reason::ServerName));
    assert_eq!(
        bench.send(&client.data(0, &hello[..100])),
        dropped(Reason::ServerName)
    );
}

#[test]
fn without_tls_the_names_of_the_address_decide() {
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, b"SSH-2.0\r\n")), Verdict::Pass);
    // TLS without a name.
    let (mut bench, client) = connected();
    assert_eq!(
        bench.send(&client.data(0, &rustls_hello("192.0.2.1"))),
        Verdict::Pass
    );

    // An address that was answered also for a name that the rules treat otherwise.
    for data in [b"SSH-2.0\r\n".to_vec(), rustls_hello("192.0.2.1")] {
        let mut bench = Bench::new(&[
            "deny=bad.example:443",
            "allow=*.example.net",
            "allow=good.example:443",
            "allow=bad.example",
        ]);
        bench.pin("good.example", &["192.0.2.1"], 60);
        bench.pin("bad.example", &["192.0.2.1", "192.0.2.2"], 60);
        let client = Client::new("192.0.2.1", 443);
        bench.connect(&client);
        let verdict = bench.send(&client.data(0, &data));
        assert_eq!(verdict, dropped(Reason::AmbiguousName));
        bench.connect(&client);
        let hello = client.data(0, &rustls_hello("good.example"));
        assert_eq!(bench.send(&hello), Verdict::Pass);
        let client = Client { isn: 7, ..client };
        bench.connect(&client);
        let hello = client.data(0, &rustls_hello("bad.example"));
        assert_eq!(bench.send(&hello), dropped(Reason::ServerName));
        // UDP and ICMP have no server name.
        assert_eq!(bench.udp("192.0.2.1", 443), dropped(Reason::AmbiguousName));
        assert_eq!(bench.echo("192.0.2.1"), dropped(Reason::AmbiguousName));
        // An address of the denied name alone needs no data.
        assert_eq!(bench.syn("192.0.2.2", 443), dropped(Reason::Rule));
    }
}

#[test]
fn a_denied_name_is_denied_where_everything_else_is_allowed() {
    let mut bench = Bench::new(&["deny=*.bad.example", "allow=any"]);
    let mut isn = 0;
    let mut send = |data: &[u8]| {
        isn += 1;
        let client = Client {
            isn,
            ..Client::new("192.0.2.1", 443)
        };
        bench.connect(&client);
        bench.send(&client.data(0, data))
    };
    assert_eq!(
        send(&rustls_hello("x.bad.example")),
        dropped(Reason::ServerName)
    );
    assert_eq!(send(&rustls_hello("good.example")), Verdict::Pass);
    assert_eq!(send(&rustls_hello("192.0.2.1")), Verdict::Pass);
    assert_eq!(send(b"SSH-2.0"), Verdict::Pass);
    assert_eq!(bench.udp("192.0.2.1", 443), dropped(Reason::Quic));
    assert_eq!(bench.udp("192.0.2.1", 444), Verdict::Pass);
}

#[test]
fn quic_is_refused_where_the_name_matters() {
    let (mut bench, _) = connected();
    assert_eq!(bench.udp("192.0.2.1", 443), dropped(Reason::Quic));
    let mut bench = Bench::new(&["allow=any:443"]);
    assert_eq!(bench.udp("192.0.2.1", 443), Verdict::Pass);
}

#[test]
fn invalid_beginnings_end_the_connection() {
    let hello = hello_of("good.example");
    let with_two_names = [&hello[..], &hello].concat();
    let mut broken = hello.clone();
    broken[5] = 2;
    for (what, data) in [("another message", &broken[..]), ("TLS 0.9", b"\x16\x02")] {
        let (mut bench, client) = connected();
        let verdict = bench.send(&client.data(0, data));
        assert_eq!(verdict, dropped(Reason::ClientHello), "{what}");
        let verdict = bench.send(&client.data(0, &hello));
        assert_eq!(verdict, dropped(Reason::ClientHello), "{what}");
    }
    // What follows the ClientHello is not read.
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, &with_two_names)), Verdict::Pass);
    // An end before it is complete.
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, &hello[..50])), Verdict::Hold);
    let end = client.control(TcpControl::Fin, 50);
    assert_eq!(bench.send(&end), dropped(Reason::ClientHello));
    let (mut bench, client) = connected();
    let end = client.segment(TcpControl::Fin, client.isn.wrapping_add(1), &hello[..50]);
    assert_eq!(bench.send(&end.frame()), dropped(Reason::ClientHello));
    // An end before anything.
    let (mut bench, client) = connected();
    assert_eq!(
        bench.send(&client.control(TcpControl::Fin, 0)),
        Verdict::Pass
    );
    // A reset that the server may have ignored.
    let (mut bench, client) = connected();
    let reset = client.control(TcpControl::Rst, 0);
    assert_eq!(bench.send(&client.data(0, &hello[..50])), Verdict::Hold);
    assert_eq!(bench.send(&reset), Verdict::Pass);
    assert_eq!(
        bench.send(&client.data(0, &broken)),
        dropped(Reason::Sequence)
    );
}

#[test]
fn data_must_come_in_order() {
    let hello = hello_of("good.example");
    let (mut bench, client) = connected();
    // A gap, and something before the first byte.
    assert_eq!(
        bench.send(&client.data(1, &hello[1..])),
        dropped(Reason::Sequence)
    );
    let before = client.data(0_u32.wrapping_sub(1), &hello);
    assert_eq!(bench.send(&before), dropped(Reason::Sequence));
    // They may be sent again.
    assert_eq!(bench.send(&client.data(0, &hello[..50])), Verdict::Hold);
    // Overlapping, with the same content.
    let verdict = bench.send(&client.data(20, &hello[20..]));
    assert_eq!(verdict, held(&[client.data(0, &hello[..50])]));

    // With another content.
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, &hello[..50])), Verdict::Hold);
    let mut other = hello[20..].to_vec();
    other[0] ^= 1;
    assert_eq!(
        bench.send(&client.data(20, &other)),
        dropped(Reason::Sequence)
    );
    assert_eq!(
        bench.send(&client.data(50, &hello[50..])),
        dropped(Reason::Sequence)
    );

    // Urgent data are not part of the stream.
    let (mut bench, client) = connected();
    let mut frame = client.data(0, &hello);
    frame[34 + 13] |= 0x20;
    assert_eq!(bench.send(&frame), dropped(Reason::Sequence));

    // Data in a SYN.
    let mut bench = connected().0;
    let syn = Tcp {
        acknowledgment: None,
        ..client.segment(TcpControl::Syn, 7, &hello)
    };
    assert_eq!(bench.send(&syn.frame()), dropped(Reason::Sequence));
}

#[test]
fn what_was_inspected_cannot_be_replaced() {
    let good = hello_of("good.example");
    let evil = hello_of("evil.example");
    assert_eq!(good.len(), evil.len());
    let length = good.len() as u32;
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, &good)), Verdict::Pass);
    let replaced = [
        client.data(0, &evil),
        client.data(10, &evil[10..]),
        client.data(1_u32.wrapping_neg(), &[&[0][..], &evil[..]].concat()),
        client.data(length.wrapping_neg(), &[&good[..], &evil].concat()),
        // As far ahead that it is before the first byte again.
        client.data(1 << 30, b"more"),
        client.data(3 << 30, b"more"),
    ];
    let others = [
        client.data(0, &good),
        client.data(10, &[&good[10..], b"more"].concat()),
        client.data(length, b"more"),
        client.data(length + 100_000, b"more"),
        client.ack(),
    ];
    for frame in &replaced {
        assert_eq!(bench.send(frame), dropped(Reason::Sequence));
    }
    for frame in &others {
        assert_eq!(bench.send(frame), Verdict::Pass);
    }
    // An acknowledgment of a part, of too much, in a reset, or of another connection changes nothing.
    assert!(bench.filter.wants_inbound());
    let other = Client {
        source_port: 1,
        ..client
    };
    for frame in [
        client.acknowledgment(length - 1),
        client.acknowledgment(1 << 30),
        other.acknowledgment(length),
        client.server_segment(TcpControl::Rst, length),
    ] {
        bench.receive(&frame);
    }
    assert_eq!(bench.send(&replaced[0]), dropped(Reason::Sequence));
    // The server has read it: whatever is sent again is ignored.
    let frame = client.acknowledgment(length);
    bench.receive(&frame);
    assert!(!bench.filter.wants_inbound());
    for frame in replaced.iter().chain(&others) {
        assert_eq!(bench.send(frame), Verdict::Pass);
    }
}

#[test]
fn data_follow_the_syn_that_the_server_has_accepted() {
    let hello = hello_of("good.example");
    let mut bench = Bench::new(RULES);
    bench.pin("good.example", &["192.0.2.1"], 60);
    let client = Client::new("192.0.2.1", 443);
    let shifted = Client {
        isn: client.isn.wrapping_add(60),
        ..client
    };
    let data = client.data(0, &hello);
    assert_eq!(bench.send(&client.syn()), Verdict::Pass);
    assert_eq!(bench.send(&data), dropped(Reason::NoConnection));
    // The answer to another SYN, and an acknowledgment without one.
    for frame in [shifted.syn_ack(), client.acknowledgment(0)] {
        bench.receive(&frame);
        assert_eq!(bench.send(&data), dropped(Reason::NoConnection));
    }
    // The server ignores the second SYN. What is shifted would lie behind what it reads next.
    bench.receive(&client.syn_ack());
    assert_eq!(bench.send(&client.data(0, &hello[..50])), Verdict::Hold);
    assert_eq!(bench.send(&shifted.syn()), Verdict::Pass);
    bench.receive(&client.acknowledgment(0));
    let shifted_data = shifted.data(0, &hello);
    assert_eq!(bench.send(&shifted_data), dropped(Reason::Sequence));
    let rest = client.data(50, &hello[50..]);
    let first = client.data(0, &hello[..50]);
    assert_eq!(bench.send(&rest), held(&[first]));
    // It accepts it after all, so it has nothing of the first connection.
    bench.receive(&shifted.syn_ack());
    assert_eq!(bench.send(&shifted_data), Verdict::Pass);
    assert_eq!(bench.send(&rest), dropped(Reason::Sequence));
}

#[test]
fn a_syn_that_is_sent_again_does_not_begin_anew() {
    let good = hello_of("good.example");
    let evil = hello_of("evil.example");
    let (mut bench, client) = connected();
    assert_eq!(bench.send(&client.data(0, &good)), Verdict::Pass);
    for _ in 0..2 {
        // With the answer to the first one, which was late.
        assert_eq!(bench.send(&client.syn()), Verdict::Pass);
        bench.receive(&client.syn_ack());
        for data in [&evil[..], b"GET / HTTP/1.1"] {
            let frame = client.data(0, data);
            assert_eq!(bench.send(&frame), dropped(Reason::Sequence));
        }
    }
    // A new connection has another number.
    let client = Client { isn: 7, ..client };
    bench.connect(&client);
    let frame = client.data(0, &rustls_hello("good.example"));
    assert_eq!(bench.send(&frame), Verdict::Pass);
}

#[test]
fn a_connection_without_tls_cannot_become_one_with() {
    let (mut bench, client) = connected();
    assert_eq!(
        bench.send(&client.data(0, b"GET / HTTP/1.1\r\n")),
        Verdict::Pass
    );
    let hello = client.data(0, &hello_of("evil.example"));
    assert_eq!(bench.send(&hello), dropped(Reason::Sequence));
    assert_eq!(bench.send(&client.data(16, b"Host: x\r\n")), Verdict::Pass);
    assert_eq!(
        bench.send(&client.data(0, b"GET / HTTP/1.1\r\n")),
        Verdict::Pass
    );
}

#[test]
fn what_waits_is_bounded() {
    let record = |length: u16| [&[22, 3, 1][..], &length.to_be_bytes(), &[1, 0, 63, 0]].concat();
    // Many frames.
    let (mut bench, client) = connected();
    let data = [&record(10_000)[..], &[0; 100]].concat();
    for (offset, byte) in data[..64].iter().enumerate() {
        let frame = client.data(offset as u32, &[*byte]);
        assert_eq!(bench.send(&frame), Verdict::Hold, "{offset}");
    }
    let frame = client.data(64, &[0]);
    assert_eq!(bench.send(&frame), dropped(Reason::HoldLimit));
    // Much data.
    let (mut bench, client) = connected();
    let data = [&record(16_384)[..], &[0; 30_000]].concat();
    assert_eq!(bench.send(&client.data(0, &data[..10_000])), Verdict::Hold);
    let frame = client.data(10_000, &data[10_000..20_000]);
    assert_eq!(bench.send(&frame), dropped(Reason::ClientHello));
    let (mut bench, client) = connected();
    assert_eq!(
        bench.send(&client.data(0, &data)),
        dropped(Reason::ClientHello)
    );
    // A long frame with a short ClientHello.
    let (mut bench, client) = connected();
    let data = [&hello_of("good.example")[..], &[0; 60_000]].concat();
    assert_eq!(bench.send(&client.data(0, &data)), Verdict::Pass);
    assert_eq!(bench.send(&client.data(0, &data)), Verdict::Pass);
    let mut bench = connected().0;
    let data = [&hello_of("evil.example")[..], &[0; 60_000]].concat();
    assert_eq!(
        bench.send(&client.data(0, &data)),
        dropped(Reason::ServerName)
    );
}

#[test]
fn connections_that_keep_data_are_bounded() {
    let mut bench = Bench::new(RULES);
    bench.pin("good.example", &["192.0.2.1"], 60);
    let client = |number: u16| Client {
        source_port: 1000 + number,
        ..Client::new("192.0.2.1", 443)
    };
    let hello = hello_of("good.example");
    // Open ones without data keep none.
    for number in 0..1100 {
        bench.connect(&client(number));
    }
    for number in 0..513 {
        let frame = client(number).data(0, &hello[..50]);
        assert_eq!(bench.send(&frame), Verdict::Hold);
    }
    let rest = |number| client(number).data(50, &hello[50..]);
    // The oldest gave way.
    assert_eq!(bench.send(&rest(0)), dropped(Reason::HoldLimit));
    for number in 1..513 {
        let first = client(number).data(0, &hello[..50]);
        assert_eq!(bench.send(&rest(number)), held(&[first]));
    }
    // Connections that are allowed lose only what could be sent again.
    for number in 513..1025 {
        let frame = client(number).data(0, &hello);
        assert_eq!(bench.send(&frame), Verdict::Pass);
    }
    let number = 1;
    let again = client(number).data(0, &hello);
    assert_eq!(bench.send(&again), dropped(Reason::Sequence));
    let more = client(number).data(hello.len() as u32, b"more");
    assert_eq!(bench.send(&more), Verdict::Pass);
    let acknowledgment = client(number).acknowledgment(hello.len() as u32);
    bench.receive(&acknowledgment);
    assert_eq!(bench.send(&again), Verdict::Pass);
}
