//! Responses of a server.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as WireName, RData, Record, RecordType};

use super::message::{self, HEADER};
use super::query::to;
use super::{Answerer, Forward, Response, Transport};
use crate::address;
use crate::name::Name;
use crate::pins::Pin;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::tally::{Destination, Tally};

/// How long a guest may keep an answer, in seconds.
const MAX_TTL: u32 = 3600;
/// How long addresses are pinned at least, in seconds: an answer that may not be kept is used once.
const MIN_PIN: u32 = 5;
/// The time between an answer and the connection, in seconds.
const GRACE: u32 = 5;
/// The maximum number of CNAME records in a chain.
const MAX_CHAIN: usize = 16;
/// The maximum number of records at its end.
const MAX_RECORDS: usize = 64;

/// What is left of an answer.
#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    addresses: Vec<IpAddr>,
    has_removed: bool,
}

impl Answerer {
    /// Reads a message from the server that `forward` was sent to over `transport`.
    pub fn response(
        &self,
        forward: &Forward,
        upstream: &[u8],
        transport: Transport,
        tally: &mut Tally,
    ) -> Response {
        if upstream.len() < HEADER
            || message::number(upstream, 0) != Some(forward.upstream_id)
            || !message::is_response(upstream)
        {
            return Response::Unrelated;
        }
        let Some((parsed, asked)) = message::parse(upstream) else {
            // Errors may come without the question.
            tally.add(Reason::DnsMessage, to(forward.name.clone()));
            return answer(self.failure(forward));
        };
        if asked != forward.question.query || parsed.op_code != OpCode::Query {
            return Response::Unrelated;
        }
        if parsed.truncation {
            return match transport {
                Transport::Udp => Response::RetryOverTcp,
                Transport::Tcp => answer(self.failure(forward)),
            };
        }
        match (&self.policy, &forward.name) {
            (None, _) => answer(pass_on(forward, upstream)),
            (Some(policy), Some(name)) => filtered(policy, forward, name, &parsed, tally),
            // Names that are not host names are not forwarded.
            (Some(_), None) => answer(self.failure(forward)),
        }
    }

    /// The answer for the guest when no server answers.
    pub fn failure(&self, forward: &Forward) -> Vec<u8> {
        let question = &forward.question;
        let response = question.respond(ResponseCode::ServFail);
        question.encode(&response, forward.transport)
    }
}

fn answer(message: Vec<u8>) -> Response {
    Response::Answer { message, pin: None }
}

/// The response as it is, with the identifier of the guest's query.
fn pass_on(forward: &Forward, upstream: &[u8]) -> Vec<u8> {
    let question = &forward.question;
    if upstream.len() > question.limit(forward.transport) {
        let mut response = question.respond(ResponseCode::NoError);
        response.metadata.truncation = true;
        return question.encode(&response, forward.transport);
    }
    let mut message = upstream.to_vec();
    for (to, from) in message.iter_mut().zip(question.id.to_be_bytes()) {
        *to = from;
    }
    message
}

fn filtered(
    policy: &Policy,
    forward: &Forward,
    name: &Name,
    upstream: &Message,
    tally: &mut Tally,
) -> Response {
    let question = &forward.question;
    let respond = |code| answer(question.encode(&question.respond(code), forward.transport));
    let code = upstream.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return respond(code);
    }
    let Some((mut chain, end)) = chain(forward, upstream) else {
        tally.add(Reason::DnsMessage, to(Some(name.clone())));
        return respond(ResponseCode::ServFail);
    };
    for record in &chain {
        if let RData::CNAME(alias) = &record.data
            && let Some(alias) = message::host_name(&alias.0)
            && policy.denies_name(&alias)
        {
            tally.add(Reason::DnsName, to(Some(alias)));
            return respond(ResponseCode::NXDomain);
        }
    }
    let kept = keep(policy, forward, name, &end, upstream, tally);
    let ttl = chain
        .iter()
        .chain(&kept.records)
        .map(|record| record.ttl)
        .min()
        .unwrap_or(0)
        .min(MAX_TTL);
    let mut response = question.respond(code);
    if kept.records.is_empty() && !kept.has_removed {
        response.authorities.extend(authority(&end, upstream));
    }
    response.answers.append(&mut chain);
    response.answers.extend(kept.records);
    let records = response.answers.iter_mut();
    for record in records.chain(&mut response.authorities) {
        record.ttl = record.ttl.min(MAX_TTL);
    }
    let pin = (!kept.addresses.is_empty()).then(|| Pin {
        name: name.clone(),
        addresses: kept.addresses,
        lifetime: Duration::from_secs((ttl.max(MIN_PIN) + GRACE).into()),
    });
    Response::Answer {
        message: question.encode(&response, forward.transport),
        pin,
    }
}

/// The CNAME records from the name that was asked for, and the name at their end. `None` if they
/// form a loop or are too many.
fn chain(forward: &Forward, upstream: &Message) -> Option<(Vec<Record>, WireName)> {
    let mut records: Vec<Record> = Vec::new();
    let mut end = forward.question.query.name.clone();
    if forward.question.query.query_type == RecordType::CNAME {
        return Some((records, end));
    }
    loop {
        let next = upstream
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(alias) if is_of(record, &end) => Some((record, alias.0.clone())),
                _ => None,
            });
        let Some((record, alias)) = next else {
            return Some((records, end));
        };
        if records.len() >= MAX_CHAIN || records.iter().any(|known| known.name == record.name) {
            return None;
        }
        records.push(record.clone());
        end = alias;
    }
}

fn is_of(record: &Record, name: &WireName) -> bool {
    record.name == *name && record.dns_class == DNSClass::IN
}

/// The records of the asked type at the end of the chain, without addresses that are refused.
fn keep(
    policy: &Policy,
    forward: &Forward,
    name: &Name,
    end: &WireName,
    upstream: &Message,
    tally: &mut Tally,
) -> Kept {
    let mut kept = Kept::default();
    for record in &upstream.answers {
        if !is_of(record, end)
            || record.record_type() != forward.question.query.query_type
            || kept.records.len() >= MAX_RECORDS
        {
            continue;
        }
        let address = match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        };
        if let Some(address) = address {
            if is_refused(policy, address) {
                let to = Destination {
                    address: Some(address),
                    ..to(Some(name.clone()))
                };
                tally.add(Reason::DnsAddress, to);
                kept.has_removed = true;
                continue;
            }
            kept.addresses.push(address);
        }
        kept.records.push(record.clone());
    }
    kept
}

/// Whether an address is not to be believed: a public name that leads into the host's own network
/// would give its owner a way there (DNS rebinding).
fn is_refused(policy: &Policy, address: IpAddr) -> bool {
    address::is_never_on_a_link(address.into())
        || (address::is_private(address) && !policy.allows_address(address))
}

/// The SOA record of a negative answer, which tells how long it may be kept (RFC 2308).
fn authority(end: &WireName, upstream: &Message) -> Option<Record> {
    let is_soa = |record: &&Record| {
        matches!(record.data, RData::SOA(_))
            && record.dns_class == DNSClass::IN
            && record.name.zone_of(end)
    };
    upstream.authorities.iter().find(is_soa).cloned()
}
