use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, MX, NS, SOA, SVCB, TXT};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, Record, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::reason::Reason;
use crate::tally::Tally;

const ID: u16 = 0x1234;
const UPSTREAM_ID: u16 = 0xabcd;

fn wire(name: &str) -> WireName {
    WireName::from_ascii(format!("{name}.")).unwrap()
}

fn answerer(rules: &[&str]) -> Answerer {
    Answerer::new(Some(Policy::parse(rules).unwrap()))
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(wire(name), kind));
    message
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(wire(name), ttl, data)
}

fn address(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn alias(name: &str) -> RData {
    RData::CNAME(CNAME(wire(name)))
}

fn soa(name: &str) -> Record {
    let data = SOA::new(wire("ns.example"), wire("admin.example"), 1, 2, 3, 4, 5);
    record(name, 100_000, RData::SOA(data))
}

/// What the guest gets when it asks.
fn respond(answerer: &Answerer, query: &Message, tally: &mut Tally) -> Message {
    respond_to(answerer, &query.to_vec().unwrap(), tally).expect("a response")
}

fn respond_to(answerer: &Answerer, query: &[u8], tally: &mut Tally) -> Option<Message> {
    match answerer.query(query, Transport::Udp, UPSTREAM_ID, tally) {
        Decision::Respond(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.message_type, MessageType::Response);
            assert!(message.answers.is_empty() && message.authorities.is_empty());
            Some(message)
        }
        Decision::Forward(forward) => panic!("{forward:?}"),
        Decision::Ignore => None,
    }
}

fn forward(answerer: &Answerer, query: &Message, transport: Transport) -> Forward {
    let query = query.to_vec().unwrap();
    match answerer.query(&query, transport, UPSTREAM_ID, &mut Tally::default()) {
        Decision::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// The response of a server to what was forwarded.
fn upstream(forward: &Forward, answers: Vec<Record>) -> Message {
    let query = Message::from_vec(&forward.message).unwrap();
    let mut message = Message::new(query.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.iter().cloned());
    message.add_answers(answers);
    message
}

fn answer(
    answerer: &Answerer,
    forward: &Forward,
    upstream: &Message,
    tally: &mut Tally,
) -> (Message, Option<Pin>) {
    let bytes = upstream.to_vec().unwrap();
    match answerer.response(forward, &bytes, Transport::Tcp, tally) {
        Response::Answer { message, pin } => (Message::from_vec(&message).unwrap(), pin),
        other => panic!("{other:?}"),
    }
}

/// What the guest gets for a query of addresses, and what is pinned.
fn resolve(rules: &[&str], name: &str, answers: Vec<Record>) -> (Message, Option<Pin>, Tally) {
    let answerer = answerer(rules);
    let kind = if answers
        .iter()
        .any(|record| record.record_type() == RecordType::AAAA)
    {
        RecordType::AAAA
    } else {
        RecordType::A
    };
    let forward = forward(&answerer, &question(name, kind), Transport::Udp);
    let mut tally = Tally::default();
    let (message, pin) = answer(
        &answerer,
        &forward,
        &upstream(&forward, answers),
        &mut tally,
    );
    assert_eq!(message.id, ID);
    assert_eq!(message.queries, [Query::query(wire(name), kind)]);
    assert!(message.additionals.is_empty());
    (message, pin, tally)
}

fn pin(name: &str, addresses: &[&str], seconds: u64) -> Option<Pin> {
    Some(Pin {
        name: name.parse().unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        lifetime: Duration::from_secs(seconds),
    })
}

#[test]
fn only_names_that_a_rule_can_allow_are_forwarded() {
    let answerer = answerer(&["allow=good.example:443", "allow=*.more.example"]);
    let mut tally = Tally::default();
    for name in ["good.example", "GOOD.Example", "x.y.more.example"] {
        let forward = forward(&answerer, &question(name, RecordType::A), Transport::Udp);
        let sent = Message::from_vec(&forward.message).unwrap();
        assert_eq!(sent.id, UPSTREAM_ID);
        assert_eq!(sent.queries, [Query::query(wire(name), RecordType::A)]);
        assert_eq!(forward.name, Some(name.parse().unwrap()));
    }
    for name in [
        "evil.example",
        "more.example",
        "x.good.example",
        "secret.evil.example",
    ] {
        let query = question(name, RecordType::A);
        let response = respond(&answerer, &query, &mut tally);
        assert_eq!(response.response_code, ResponseCode::NXDomain);
        assert_eq!((response.id, &response.queries), (ID, &query.queries));
        assert!(response.recursion_available && response.recursion_desired);
    }
    assert_eq!(tally.count(Reason::DnsName), 4);
    assert_eq!(
        tally.refusals()[0].to.name,
        Some("evil.example".parse().unwrap())
    );
    // Characters that host names do not have, and a dot within a label.
    for label in [&b"a b"[..], b"a\0", b"good.example", b"caf\xc3\xa9"] {
        let mut query = question("more.example", RecordType::A);
        let name = wire("more.example").prepend_label(label).unwrap();
        query.queries[0].name = name;
        let response = respond(&answerer, &query, &mut tally);
        assert_eq!(response.response_code, ResponseCode::NXDomain, "{label:?}");
    }
}

#[test]
fn nothing_of_the_guests_but_the_question_is_forwarded() {
    let answerer = answerer(&["allow=good.example"]);
    let mut query = question("good.example", RecordType::TXT);
    query.metadata.checking_disabled = true;
    query.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(10, b"a cookie".to_vec());
    edns.options_mut().insert(option);
    query.set_edns(edns);
    query.add_answer(record(
        "good.example",
        1,
        RData::TXT(TXT::new(vec!["x".to_owned()])),
    ));
    query.add_additional(record("a.example", 1, address("192.0.2.1")));
    let forward = forward(&answerer, &query, Transport::Udp);
    let mut expected = Message::new(UPSTREAM_ID, MessageType::Query, OpCode::Query);
    expected.metadata.recursion_desired = true;
    expected.add_query(Query::query(wire("good.example"), RecordType::TXT));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    expected.set_edns(edns);
    assert_eq!(Message::from_vec(&forward.message).unwrap(), expected);
}

#[test]
fn invalid_queries_are_answered_or_ignored() {
    let answerer = answerer(&["allow=good.example"]);
    let mut tally = Tally::default();
    let query = question("good.example", RecordType::A);
    let bytes = query.to_vec().unwrap();
    let code = |bytes: &[u8], tally: &mut Tally| {
        respond_to(&answerer, bytes, tally).map(|message| (message.id, message.response_code))
    };
    for length in 0..12 {
        assert_eq!(code(&bytes[..length], &mut tally), None);
    }
    let form = Some((ID, ResponseCode::FormErr));
    for length in 12..bytes.len() {
        assert_eq!(code(&bytes[..length], &mut tally), form, "{length}");
    }
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        bytes
    };
    // No question, two, and more than there are.
    for (at, byte) in [(5, 0), (5, 2), (4, 0xff)] {
        assert_eq!(code(&changed(at, byte), &mut tally), form);
    }
    let mut two = query.clone();
    two.add_query(Query::query(wire("good.example"), RecordType::AAAA));
    assert_eq!(code(&two.to_vec().unwrap(), &mut tally), form);
    // A name that refers to itself.
    assert_eq!(
        code(
            &[&bytes[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(),
            &mut tally
        ),
        form
    );
    // A response, and other operations.
    assert_eq!(code(&changed(2, 0x80), &mut tally), None);
    let not_implemented = Some((ID, ResponseCode::NotImp));
    for op_code in [1, 2, 4, 5, 15] {
        assert_eq!(code(&changed(2, op_code << 3), &mut tally), not_implemented);
    }
    let mut chaos = query.clone();
    chaos.queries[0].query_class = DNSClass::CH;
    let response = respond(&answerer, &chaos, &mut tally);
    assert_eq!(response.response_code, ResponseCode::Refused);
    let mut edns = query;
    edns.set_edns(Edns::new().set_version(1).clone());
    let response = respond(&answerer, &edns, &mut tally);
    // BADVERS; as BADSIG it has another meaning in signed messages.
    assert_eq!(u16::from(response.response_code), 16);
}

#[test]
fn types_that_could_lead_past_the_rules_are_not_forwarded() {
    let answerer = answerer(&["allow=good.example"]);
    let mut tally = Tally::default();
    for kind in [RecordType::HTTPS, RecordType::SVCB] {
        let response = respond(&answerer, &question("good.example", kind), &mut tally);
        assert_eq!(response.response_code, ResponseCode::NoError);
    }
    assert_eq!(tally.count(Reason::DnsType), 0);
    for kind in [
        RecordType::ANY,
        RecordType::AXFR,
        RecordType::IXFR,
        RecordType::NULL,
        RecordType::DNSKEY,
        RecordType::Unknown(65280),
    ] {
        let response = respond(&answerer, &question("good.example", kind), &mut tally);
        assert_eq!(response.response_code, ResponseCode::Refused, "{kind}");
    }
    assert_eq!(tally.count(Reason::DnsType), 6);
    for kind in [
        RecordType::A,
        RecordType::AAAA,
        RecordType::TXT,
        RecordType::MX,
        RecordType::SRV,
    ] {
        forward(&answerer, &question("good.example", kind), Transport::Tcp);
    }
}

#[test]
fn answers_are_pinned_for_the_name_that_was_asked_for() {
    let (message, pinned, _) = resolve(
        &["allow=good.example"],
        "Good.Example",
        vec![
            record("good.example", 300, address("192.0.2.1")),
            record("good.example", 200, address("192.0.2.2")),
        ],
    );
    assert_eq!(message.response_code, ResponseCode::NoError);
    assert_eq!(message.answers.len(), 2);
    assert_eq!(
        pinned,
        pin("good.example", &["192.0.2.1", "192.0.2.2"], 205)
    );
    let (_, pinned, _) = resolve(
        &["allow=good.example"],
        "good.example",
        vec![record("good.example", 300, address("2001:db8::1"))],
    );
    assert_eq!(pinned, pin("good.example", &["2001:db8::1"], 305));
}

#[test]
fn lifetimes_are_limited() {
    for (ttl, shown, pinned) in [
        (0, 0, 10),
        (4, 4, 10),
        (6, 6, 11),
        (3600, 3600, 3605),
        (3601, 3600, 3605),
        (u32::MAX, 3600, 3605),
    ] {
        let answers = vec![record("good.example", ttl, address("192.0.2.1"))];
        let (message, found, _) = resolve(&["allow=any"], "good.example", answers);
        assert_eq!(message.answers[0].ttl, shown);
        assert_eq!(found, pin("good.example", &["192.0.2.1"], pinned));
    }
    // The shortest of the chain.
    let answers = vec![
        record("good.example", 30, alias("cdn.example")),
        record("cdn.example", 60, address("192.0.2.1")),
    ];
    let (_, found, _) = resolve(&["allow=good.example"], "good.example", answers);
    assert_eq!(found, pin("good.example", &["192.0.2.1"], 35));
}

#[test]
fn chains_begin_at_the_name_that_was_asked_for() {
    let chain = vec![
        // In any order, beside what does not belong to it.
        record("b.cdn.example", 60, address("192.0.2.1")),
        record("other.example", 60, address("192.0.2.66")),
        record("a.cdn.example", 60, alias("B.cdn.example")),
        record("other.example", 60, alias("good.example")),
        record("good.example", 60, alias("a.cdn.example")),
        // Of the asked name itself, which has an alias.
        record("good.example", 60, address("192.0.2.67")),
        record(
            "b.cdn.example",
            60,
            RData::HTTPS(HTTPS(SVCB::new(1, wire("x.example"), vec![]))),
        ),
        record("b.cdn.example", 60, address("2001:db8::66")),
    ];
    let answerer = answerer(&["allow=good.example"]);
    let forward = forward(
        &answerer,
        &question("good.example", RecordType::A),
        Transport::Udp,
    );
    let mut upstream = upstream(&forward, chain);
    upstream.add_authority(record("cdn.example", 60, RData::NS(NS(wire("ns.example")))));
    upstream.add_additional(record("good.example", 60, address("192.0.2.68")));
    let (message, pinned) = answer(&answerer, &forward, &upstream, &mut Tally::default());
    assert_eq!(
        message.answers,
        [
            record("good.example", 60, alias("a.cdn.example")),
            record("a.cdn.example", 60, alias("b.cdn.example")),
            record("b.cdn.example", 60, address("192.0.2.1")),
        ]
    );
    assert!(message.authorities.is_empty() && message.additionals.is_empty());
    assert_eq!(pinned, pin("good.example", &["192.0.2.1"], 65));
}

#[test]
fn endless_chains_fail() {
    let looped = vec![
        record("good.example", 60, alias("a.example")),
        record("a.example", 60, alias("good.example")),
        record("a.example", 60, address("192.0.2.1")),
    ];
    let mut long: Vec<Record> = (0..18)
        .map(|number| {
            record(
                &format!("n{number}.example"),
                60,
                alias(&format!("n{}.example", number + 1)),
            )
        })
        .collect();
    long.push(record("good.example", 60, alias("n0.example")));
    for answers in [looped, long] {
        let (message, pinned, tally) = resolve(&["allow=good.example"], "good.example", answers);
        assert_eq!(message.response_code, ResponseCode::ServFail);
        assert_eq!((message.answers.len(), pinned), (0, None));
        assert_eq!(tally.count(Reason::DnsMessage), 1);
    }
}

#[test]
fn a_chain_through_a_denied_name_is_refused() {
    let answers = || {
        vec![
            record("good.example", 60, alias("x.tracker.example")),
            record("x.tracker.example", 60, address("192.0.2.1")),
        ]
    };
    let rules = ["deny=*.tracker.example", "allow=any"];
    let (message, pinned, tally) = resolve(&rules, "good.example", answers());
    assert_eq!(message.response_code, ResponseCode::NXDomain);
    assert_eq!((message.answers.len(), pinned), (0, None));
    assert_eq!(
        tally.refusals()[0].to.name,
        Some("x.tracker.example".parse().unwrap())
    );
    // Not being allowed is no denial: names of networks that deliver content are not in rules.
    let (message, ..) = resolve(
        &["allow=good.example", "deny=any"],
        "good.example",
        answers(),
    );
    assert_eq!(message.answers.len(), 2);
}

#[test]
fn private_addresses_need_a_rule() {
    for text in [
        "10.0.0.1",
        "127.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "fd00:ec2::254",
    ] {
        let public = if text.contains(':') {
            "2001:db8::1"
        } else {
            "192.0.2.1"
        };
        let answers = || {
            vec![
                record("good.example", 60, address(text)),
                record("good.example", 60, address(public)),
            ]
        };
        for rules in [["allow=good.example"], ["allow=any"]] {
            let (message, pinned, tally) = resolve(&rules, "good.example", answers());
            assert_eq!(
                message.answers,
                [record("good.example", 60, address(public))]
            );
            assert_eq!(pinned, pin("good.example", &[public], 65));
            assert_eq!(tally.count(Reason::DnsAddress), 1);
            assert_eq!(tally.refusals()[0].to.address, Some(text.parse().unwrap()));
        }
    }
    let answers = || vec![record("db.example", 60, address("10.0.0.1"))];
    let (message, pinned, _) = resolve(&["allow=db.example"], "db.example", answers());
    assert_eq!(message.response_code, ResponseCode::NoError);
    assert_eq!((message.answers.len(), pinned), (0, None));
    let rules = ["allow=db.example", "allow=10.0.0.0/8:5432"];
    let (message, pinned, _) = resolve(&rules, "db.example", answers());
    assert_eq!(message.answers.len(), 1);
    assert_eq!(pinned, pin("db.example", &["10.0.0.1"], 65));
}

#[test]
fn negative_answers_keep_their_soa() {
    let answerer = answerer(&["allow=good.example"]);
    let forward = forward(
        &answerer,
        &question("good.example", RecordType::AAAA),
        Transport::Udp,
    );
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        let mut upstream = upstream(&forward, Vec::new());
        upstream.metadata.response_code = code;
        upstream.add_authority(soa("unrelated.example"));
        upstream.add_authority(soa("example"));
        let (message, pinned) = answer(&answerer, &forward, &upstream, &mut Tally::default());
        assert_eq!((message.response_code, pinned), (code, None));
        let mut expected = soa("example");
        expected.ttl = 3600;
        assert_eq!(message.authorities, [expected]);
    }
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut upstream = upstream(
            &forward,
            vec![record("good.example", 60, address("192.0.2.1"))],
        );
        upstream.metadata.response_code = code;
        let (message, pinned) = answer(&answerer, &forward, &upstream, &mut Tally::default());
        assert_eq!((message.response_code, pinned), (code, None));
        assert!(message.answers.is_empty());
    }
    let failure = Message::from_vec(&answerer.failure(&forward)).unwrap();
    assert_eq!(
        (failure.id, failure.response_code),
        (ID, ResponseCode::ServFail)
    );
}

#[test]
fn other_types_keep_the_records_of_the_name() {
    let answerer = answerer(&["allow=good.example"]);
    let forward = forward(
        &answerer,
        &question("good.example", RecordType::MX),
        Transport::Udp,
    );
    let mx = || RData::MX(MX::new(10, wire("mail.example")));
    let answers = vec![
        record("good.example", 60, mx()),
        record("evil.example", 60, mx()),
        record("good.example", 60, address("192.0.2.1")),
    ];
    let (message, pinned) = answer(
        &answerer,
        &forward,
        &upstream(&forward, answers),
        &mut Tally::default(),
    );
    assert_eq!(message.answers, [record("good.example", 60, mx())]);
    assert_eq!(pinned, None);
}

#[test]
fn only_the_response_to_the_query_counts() {
    let answerer = answerer(&["allow=*.example.com"]);
    let forward = forward(
        &answerer,
        &question("a.example.com", RecordType::A),
        Transport::Udp,
    );
    let valid = upstream(
        &forward,
        vec![record("a.example.com", 60, address("192.0.2.1"))],
    );
    let mut tally = Tally::default();
    let mut is_unrelated = |change: fn(&mut Message)| {
        let mut message = valid.clone();
        change(&mut message);
        let bytes = message.to_vec().unwrap();
        let response = answerer.response(&forward, &bytes, Transport::Udp, &mut tally);
        matches!(response, Response::Unrelated)
    };
    assert!(!is_unrelated(|_| {}));
    // The case of letters does not matter.
    assert!(!is_unrelated(
        |message| message.queries[0].name = wire("A.Example.com")
    ));
    assert!(is_unrelated(|message| message.metadata.id ^= 1));
    assert!(is_unrelated(
        |message| message.metadata.message_type = MessageType::Query
    ));
    assert!(is_unrelated(
        |message| message.metadata.op_code = OpCode::Notify
    ));
    assert!(is_unrelated(
        |message| message.queries[0].name = wire("b.example.com")
    ));
    assert!(is_unrelated(
        |message| message.queries[0].query_type = RecordType::AAAA
    ));
    assert!(is_unrelated(
        |message| message.queries[0].query_class = DNSClass::CH
    ));
    let bytes = valid.to_vec().unwrap();
    for length in 0..12 {
        let response = answerer.response(&forward, &bytes[..length], Transport::Udp, &mut tally);
        assert!(matches!(response, Response::Unrelated));
    }
    for length in 12..bytes.len() {
        let response = answerer.response(&forward, &bytes[..length], Transport::Udp, &mut tally);
        let Response::Answer { message, pin: None } = response else {
            panic!("{response:?}")
        };
        let message = Message::from_vec(&message).unwrap();
        assert_eq!(message.response_code, ResponseCode::ServFail);
    }
}

#[test]
fn truncated_responses_are_asked_for_again() {
    let answerer = answerer(&["allow=good.example"]);
    let forward = forward(
        &answerer,
        &question("good.example", RecordType::A),
        Transport::Udp,
    );
    let mut message = upstream(
        &forward,
        vec![record("good.example", 60, address("192.0.2.1"))],
    );
    message.metadata.truncation = true;
    let bytes = message.to_vec().unwrap();
    let mut tally = Tally::default();
    let response = answerer.response(&forward, &bytes, Transport::Udp, &mut tally);
    assert!(matches!(response, Response::RetryOverTcp));
    let (message, pinned) = answer(&answerer, &forward, &message, &mut tally);
    assert_eq!(
        (message.response_code, pinned),
        (ResponseCode::ServFail, None)
    );
}

#[test]
fn long_answers_are_truncated_for_clients_of_udp() {
    // 40 records of 16 bytes, after a header and a question of 30.
    let records = || -> Vec<Record> {
        (0..40)
            .map(|number| record("good.example", 60, address(&format!("192.0.2.{number}"))))
            .collect()
    };
    for (payload, transport, is_truncated) in [
        (None, Transport::Udp, true),
        (Some(512), Transport::Udp, true),
        (Some(100), Transport::Udp, true),
        (Some(680), Transport::Udp, true),
        (Some(681), Transport::Udp, false),
        (Some(4096), Transport::Udp, false),
        (None, Transport::Tcp, false),
    ] {
        for answerer in [answerer(&["allow=good.example"]), Answerer::new(None)] {
            let mut query = question("good.example", RecordType::A);
            if let Some(payload) = payload {
                let mut edns = Edns::new();
                edns.set_max_payload(payload);
                query.set_edns(edns);
            }
            let forward = forward(&answerer, &query, transport);
            let mut upstream = upstream(&forward, records());
            if payload.is_some() {
                upstream.set_edns(Edns::new());
            }
            let (message, pinned) = answer(&answerer, &forward, &upstream, &mut Tally::default());
            assert_eq!(message.id, ID);
            assert_eq!(message.truncation, is_truncated, "{payload:?}");
            assert_eq!(message.answers.len(), if is_truncated { 0 } else { 40 });
            assert_eq!(message.edns.is_some(), payload.is_some());
            assert_eq!(pinned.is_some(), answerer.policy.is_some());
        }
    }
    // Whatever the client accepts.
    let answerer = Answerer::new(None);
    let mut query = question("good.example", RecordType::TXT);
    let mut edns = Edns::new();
    edns.set_max_payload(65535);
    query.set_edns(edns);
    let forward = forward(&answerer, &query, Transport::Udp);
    let text = RData::TXT(TXT::new(vec!["x".repeat(250); 20]));
    let upstream = upstream(&forward, vec![record("good.example", 60, text)]);
    let (message, _) = answer(&answerer, &forward, &upstream, &mut Tally::default());
    assert!(message.truncation);
}

#[test]
fn without_a_policy_responses_are_passed_on() {
    let answerer = Answerer::new(None);
    let mut tally = Tally::default();
    for kind in [RecordType::A, RecordType::HTTPS, RecordType::ANY] {
        let forward = forward(&answerer, &question("a_b.example", kind), Transport::Udp);
        let mut upstream = upstream(
            &forward,
            vec![
                record("a_b.example", 60, address("10.0.0.1")),
                record("other.example", 100_000, address("192.0.2.1")),
            ],
        );
        upstream.add_authority(soa("example"));
        let (message, pinned) = answer(&answerer, &forward, &upstream, &mut tally);
        let mut expected = upstream.clone();
        expected.metadata.id = ID;
        assert_eq!((message, pinned), (expected, None));
    }
    let forward = forward(
        &answerer,
        &question("a.example", RecordType::A),
        Transport::Udp,
    );
    let other = upstream(&forward, Vec::new());
    let mut bytes = other.to_vec().unwrap();
    bytes[0] ^= 1;
    let response = answerer.response(&forward, &bytes, Transport::Udp, &mut tally);
    assert!(matches!(response, Response::Unrelated));
}

#[test]
fn records_are_bounded() {
    let answers = (0..1000)
        .map(|number: u32| {
            let octets = [192, 0, (number / 250) as u8 + 2, (number % 250) as u8];
            record("good.example", 60, RData::A(A(octets.into())))
        })
        .collect();
    let answerer = answerer(&["allow=good.example"]);
    let forward = forward(
        &answerer,
        &question("good.example", RecordType::A),
        Transport::Tcp,
    );
    let (message, pinned) = answer(
        &answerer,
        &forward,
        &upstream(&forward, answers),
        &mut Tally::default(),
    );
    assert_eq!(message.answers.len(), 64);
    assert_eq!(pinned.unwrap().addresses.len(), 64);
}

/// A message with some bytes changed.
fn mutated(message: Message) -> impl Strategy<Value = Vec<u8>> {
    let bytes = message.to_vec().unwrap();
    let length = bytes.len();
    (vec((0..length, any::<u8>()), 0..6), 0..length * 4).prop_map(move |(changes, cut)| {
        let mut bytes = bytes.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(12));
        bytes
    })
}

fn sample() -> Message {
    let mut message = Message::new(UPSTREAM_ID, MessageType::Response, OpCode::Query);
    message.add_query(Query::query(wire("good.example"), RecordType::A));
    message.add_answers([
        record("good.example", 60, alias("cdn.example")),
        record("cdn.example", 60, address("192.0.2.1")),
        record("cdn.example", 60, address("10.0.0.1")),
        record("evil.example", 60, address("192.0.2.66")),
    ]);
    message.add_authority(soa("example"));
    message
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_query_for_another_name_is_forwarded(
        bytes in prop_oneof![vec(any::<u8>(), 0..80), mutated(question("good.example", RecordType::A))],
    ) {
        let answerer = answerer(&["allow=good.example"]);
        let mut tally = Tally::default();
        match answerer.query(&bytes, Transport::Udp, UPSTREAM_ID, &mut tally) {
            Decision::Forward(forward) => {
                // The name in the bytes that leave, without a parser.
                let sent = forward.message.to_ascii_lowercase();
                prop_assert_eq!(&sent[12..26], b"\x04good\x07example\0");
                prop_assert_eq!(&sent[..6], [0xab, 0xcd, 1, 0, 0, 1]);
                prop_assert_eq!(sent.len(), 26 + 4 + 11);
            }
            Decision::Respond(response) => {
                prop_assert!(response.len() <= 512);
                prop_assert_eq!(&response[..2], &bytes[..2]);
                prop_assert!(response[2] & 0x80 != 0);
            }
            Decision::Ignore => {}
        }
    }

    #[test]
    fn no_response_pins_what_it_should_not(
        bytes in prop_oneof![1 => vec(any::<u8>(), 0..200), 4 => mutated(sample())],
    ) {
        let answerer = answerer(&["allow=good.example"]);
        let forward = forward(&answerer, &question("good.example", RecordType::A), Transport::Udp);
        let mut tally = Tally::default();
        if let Response::Answer { message, pin } =
            answerer.response(&forward, &bytes, Transport::Udp, &mut tally)
        {
            prop_assert!(message.len() <= 512);
            prop_assert_eq!(&message[..2], ID.to_be_bytes());
            let message = Message::from_vec(&message).unwrap();
            let shown: Vec<IpAddr> = message.answers.iter().filter_map(|record| match record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                _ => None,
            }).collect();
            let pinned = pin.map(|pin| {
                assert_eq!(pin.name.as_str(), "good.example");
                assert!((10..=3605).contains(&pin.lifetime.as_secs()));
                pin.addresses
            });
            prop_assert_eq!(&shown, &pinned.unwrap_or_default());
            for address in shown {
                let IpAddr::V4(address) = address else { unreachable!() };
                prop_assert!(!address.is_private() && !address.is_loopback() && !address.is_link_local());
                // Each is in the response as it came.
                prop_assert!(bytes.windows(4).any(|window| window == address.octets()));
            }
        }
    }
}
