//! Rules, names, flows and their ends.

use super::*;

#[test]
fn an_empty_policy_denies_everything() {
    let mut bench = Bench::new(&[]);
    bench.pin("a.example", &["192.0.2.1"], 60);
    for to in ["192.0.2.1", "2001:db8::1", "10.0.2.2"] {
        assert_eq!(bench.udp(to, 443), dropped(Reason::NoRule));
        assert_eq!(bench.syn(to, 443), dropped(Reason::NoRule));
        assert_eq!(bench.echo(to), dropped(Reason::NoRule));
    }
    let mut bench = Bench::open();
    for to in ["192.0.2.1", "2001:db8::1", "169.254.169.254"] {
        assert_eq!(bench.udp(to, 443), Verdict::Pass);
        assert_eq!(bench.syn(to, 443), Verdict::Pass);
        assert_eq!(bench.echo(to), Verdict::Pass);
    }
}

#[test]
fn addresses_and_ports_are_allowed_and_denied_in_order() {
    let mut bench = Bench::new(&[
        "deny=192.0.2.1",
        "allow=192.0.2.0/24:443",
        "allow=[2001:db8::/32]:443",
        "deny=any:25",
        "allow=198.51.100.0/24",
    ]);
    for (to, port, expected) in [
        ("192.0.2.1", 443, dropped(Reason::Rule)),
        ("192.0.2.2", 443, Verdict::Pass),
        ("192.0.2.2", 444, dropped(Reason::NoRule)),
        ("192.0.3.2", 443, dropped(Reason::NoRule)),
        ("2001:db8::1", 443, Verdict::Pass),
        ("2001:db9::1", 443, dropped(Reason::NoRule)),
        ("198.51.100.1", 24, Verdict::Pass),
        ("198.51.100.1", 25, dropped(Reason::Rule)),
    ] {
        assert_eq!(bench.udp(to, port), expected, "{to} {port}");
        assert_eq!(bench.syn(to, port), expected, "{to} {port}");
    }
    // Only a rule without a port covers ICMP.
    assert_eq!(bench.echo("192.0.2.1"), dropped(Reason::Rule));
    assert_eq!(bench.echo("192.0.2.2"), dropped(Reason::NoRule));
    assert_eq!(bench.echo("198.51.100.1"), Verdict::Pass);
}

#[test]
fn metadata_services_need_a_rule_of_their_own() {
    let services = [
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "64:ff9b::a9fe:a9fe",
    ];
    for to in services {
        let mut bench = Bench::new(&["allow=a.example", "allow=any"]);
        bench.pin("a.example", &[to], 60);
        assert_eq!(bench.syn(to, 80), dropped(Reason::Metadata), "{to}");
        assert_eq!(bench.udp(to, 80), dropped(Reason::Metadata), "{to}");
        assert_eq!(bench.echo(to), dropped(Reason::Metadata), "{to}");
    }
    let mut bench = Bench::new(&["allow=169.254.169.254:80", "allow=any"]);
    assert_eq!(bench.syn("169.254.169.254", 80), Verdict::Pass);
    assert_eq!(bench.syn("169.254.169.254", 81), dropped(Reason::Metadata));
}

#[test]
fn a_name_is_allowed_at_the_addresses_that_were_answered_for_it() {
    let mut bench = Bench::new(&["allow=a.example:8080", "allow=*.b.example"]);
    assert_eq!(bench.syn("192.0.2.1", 8080), dropped(Reason::NoRule));
    bench.pin("a.example", &["192.0.2.1", "2001:db8::1"], 60);
    bench.pin("x.b.example", &["192.0.2.2"], 60);
    bench.pin("b.example", &["192.0.2.3"], 60);
    assert_eq!(bench.syn("192.0.2.1", 8080), Verdict::Pass);
    assert_eq!(bench.udp("192.0.2.1", 8080), Verdict::Pass);
    assert_eq!(bench.syn("2001:db8::1", 8080), Verdict::Pass);
    assert_eq!(bench.syn("192.0.2.1", 80), dropped(Reason::NoRule));
    assert_eq!(bench.echo("192.0.2.1"), dropped(Reason::NoRule));
    assert_eq!(bench.syn("192.0.2.2", 80), Verdict::Pass);
    assert_eq!(bench.echo("192.0.2.2"), Verdict::Pass);
    assert_eq!(bench.syn("192.0.2.3", 80), dropped(Reason::NoRule));
    assert_eq!(bench.syn("192.0.2.4", 80), dropped(Reason::NoRule));
}

#[test]
fn an_open_flow_outlives_its_pin() {
    let mut bench = Bench::new(&["allow=a.example"]);
    bench.pin("a.example", &["192.0.2.1"], 10);
    let client = Client::new("192.0.2.1", 22);
    bench.connect(&client);
    assert_eq!(bench.send(&client.data(0, b"SSH-")), Verdict::Pass);
    assert_eq!(bench.udp("192.0.2.1", 80), Verdict::Pass);
    assert_eq!(bench.echo("192.0.2.1"), Verdict::Pass);
    bench.wait(10);
    assert_eq!(bench.send(&client.data(4, b"2.0")), Verdict::Pass);
    assert_eq!(bench.udp("192.0.2.1", 80), Verdict::Pass);
    assert_eq!(bench.echo("192.0.2.1"), Verdict::Pass);
    assert_eq!(bench.udp("192.0.2.1", 81), dropped(Reason::NoRule));
    let other = Client {
        source_port: 40001,
        ..client
    };
    assert_eq!(bench.send(&other.syn()), dropped(Reason::NoRule));
    // Reusing the ports is a new connection, even with the same sequence number.
    assert_eq!(bench.send(&client.syn()), dropped(Reason::NoRule));
    // UDP and echo end by themselves.
    bench.wait(179);
    assert_eq!(bench.udp("192.0.2.1", 80), Verdict::Pass);
    assert_eq!(bench.echo("192.0.2.1"), Verdict::Pass);
    bench.wait(180);
    assert_eq!(bench.udp("192.0.2.1", 80), dropped(Reason::NoRule));
    assert_eq!(bench.echo("192.0.2.1"), dropped(Reason::NoRule));
    assert_eq!(bench.send(&client.data(7, b"...")), Verdict::Pass);
}

#[test]
fn a_syn_may_be_sent_again() {
    let mut bench = Bench::new(&["allow=a.example"]);
    bench.pin("a.example", &["192.0.2.1"], 10);
    let client = Client::new("192.0.2.1", 22);
    assert_eq!(bench.send(&client.syn()), Verdict::Pass);
    bench.wait(60);
    assert_eq!(bench.send(&client.syn()), Verdict::Pass);
    let other = Client { isn: 7, ..client };
    assert_eq!(bench.send(&other.syn()), dropped(Reason::NoRule));
    bench.wait(90);
    assert_eq!(bench.send(&client.syn()), dropped(Reason::NoRule));
}

#[test]
fn tcp_begins_with_a_syn() {
    let mut bench = Bench::new(&["allow=any"]);
    let client = Client::new("192.0.2.1", 80);
    for control in [TcpControl::None, TcpControl::Fin, TcpControl::Rst] {
        let frame = client.control(control, 0);
        assert_eq!(bench.send(&frame), dropped(Reason::NoConnection));
    }
    // A server in the guest would answer a connection from outside.
    let answer = client.control(TcpControl::Syn, 0);
    assert_eq!(bench.send(&answer), dropped(Reason::NoConnection));
    assert_eq!(bench.send(&client.syn()), Verdict::Pass);
    for control in [TcpControl::None, TcpControl::Fin, TcpControl::None] {
        assert_eq!(bench.send(&client.control(control, 0)), Verdict::Pass);
    }
    assert_eq!(
        bench.send(&client.control(TcpControl::Rst, 0)),
        Verdict::Pass
    );
    assert_eq!(bench.send(&client.ack()), dropped(Reason::NoConnection));
    for flags in [0x03, 0x06] {
        let mut frame = client.syn();
        frame[34 + 13] = flags;
        assert_eq!(bench.send(&frame), dropped(Reason::Malformed));
    }
}

#[test]
fn flows_are_bounded() {
    let mut bench = Bench::new(&["allow=any"]);
    let client = |number: u32| Client {
        source_port: u16::try_from(number % 60_000).unwrap() + 1,
        ..Client::new(
            if number < 60_000 {
                "192.0.2.1"
            } else {
                "192.0.2.2"
            },
            80,
        )
    };
    for number in 0..70_000 {
        bench.now += Duration::from_millis(1);
        assert_eq!(bench.send(&client(number).syn()), Verdict::Pass);
    }
    assert!(bench.filter.flows.len() <= 16 * 1024);
    for number in 60_000..70_000 {
        assert_eq!(bench.send(&client(number).ack()), Verdict::Pass);
    }
    assert_eq!(bench.send(&client(0).ack()), dropped(Reason::NoConnection));
}

#[test]
fn what_was_refused_is_counted_and_listed() {
    let mut bench = Bench::new(&["deny=a.example:25", "allow=a.example"]);
    bench.pin("a.example", &["192.0.2.1"], 60);
    assert_eq!(bench.syn("192.0.2.1", 25), dropped(Reason::Rule));
    assert_eq!(bench.syn("192.0.2.1", 25), dropped(Reason::Rule));
    assert_eq!(bench.udp("198.51.100.1", 53), dropped(Reason::Dns));
    assert_eq!(bench.echo("2001:db8::7"), dropped(Reason::NoRule));
    assert_eq!(bench.send(&[0; 20]), dropped(Reason::EtherType));
    assert_eq!(
        serde_json::to_value(bench.filter.tally().refusals()).unwrap(),
        serde_json::json!([
            {"reason": "rule", "protocol": "tcp", "address": "192.0.2.1", "port": 25,
             "name": "a.example", "count": 2},
            {"reason": "dns", "protocol": "udp", "address": "198.51.100.1", "port": 53, "count": 1},
            {"reason": "noRule", "protocol": "icmp", "address": "2001:db8::7", "count": 1},
            {"reason": "etherType", "count": 1},
        ])
    );
    assert_eq!(
        serde_json::to_value(bench.filter.tally().counts()).unwrap(),
        serde_json::json!({"rule": 2, "dns": 1, "noRule": 1, "etherType": 1})
    );
}

#[test]
fn headers_are_asked_for() {
    let frame = frames::udp(
        (address("10.0.2.15"), 1),
        (address("192.0.2.1"), 80),
        &[0; 2000],
    );
    let mut bench = Bench::new(&["allow=any"]);
    let mut check = |bytes| {
        let header = HEADER;
        let len = frame.len();
        bench
            .filter
            .check(&GuestFrame { bytes, len, header }, bench.now)
    };
    assert_eq!(check(&frame[..511]), Verdict::NeedMore(512));
    assert_eq!(check(&frame[..512]), Verdict::Pass);
}
