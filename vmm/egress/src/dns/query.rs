//! Queries of the guest.

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use super::message::{self, HEADER, Question, our_edns};
use super::{Answerer, Decision, Forward, Transport};
use crate::name::Name;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::tally::{Destination, Protocol, Tally};

/// Types that are forwarded with a policy. Others could carry anything, such as NULL, or lead past
/// the pins, such as HTTPS with its address hints.
const FORWARDED: [RecordType; 11] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CAA,
    RecordType::CNAME,
    RecordType::MX,
    RecordType::NAPTR,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::TXT,
];

impl Answerer {
    /// Decides about a query of the guest. `upstream_id` must be unpredictable; it identifies the
    /// message that is forwarded.
    pub fn query(
        &self,
        query: &[u8],
        transport: Transport,
        upstream_id: u16,
        tally: &mut Tally,
    ) -> Decision {
        // An answer to a response would begin a loop.
        let (Some(id), false) = (message::number(query, 0), message::is_response(query)) else {
            return Decision::Ignore;
        };
        if query.len() < HEADER {
            return Decision::Ignore;
        }
        let op_code = query.get(2).map_or(0, |flags| flags >> 3 & 0x0f);
        if op_code != 0 {
            tally.add(Reason::DnsType, to(None));
            return respond_without_question(id, op_code, ResponseCode::NotImp);
        }
        let Some((parsed, asked)) = message::parse(query) else {
            tally.add(Reason::DnsMessage, to(None));
            return respond_without_question(id, 0, ResponseCode::FormErr);
        };
        let question = Question {
            id,
            query: asked,
            recursion_desired: parsed.recursion_desired,
            checking_disabled: parsed.checking_disabled,
            edns: parsed.edns.as_ref().map(|edns| edns.max_payload()),
        };
        let name = message::host_name(&question.query.name);
        let refusal = if parsed.edns.is_some_and(|edns| edns.version() != 0) {
            Some((ResponseCode::BADVERS, None))
        } else {
            let policy = self.policy.as_ref();
            policy.and_then(|policy| refuse(policy, &question, name.as_ref()))
        };
        if let Some((code, reason)) = refusal {
            if let Some(reason) = reason {
                tally.add(reason, to(name));
            }
            let response = question.respond(code);
            return Decision::Respond(question.encode(&response, transport));
        }
        let mut forwarded = Message::new(upstream_id, MessageType::Query, OpCode::Query);
        forwarded.metadata.recursion_desired = true;
        forwarded.queries.push(question.query.clone());
        forwarded.edns = Some(our_edns());
        match forwarded.to_vec() {
            Ok(message) => Decision::Forward(Forward {
                message,
                name,
                upstream_id,
                question,
                transport,
            }),
            Err(_) => respond_without_question(id, 0, ResponseCode::FormErr),
        }
    }
}

/// The response to a question that is not forwarded, and the reason if it counts as a refusal.
fn refuse(
    policy: &Policy,
    question: &Question,
    name: Option<&Name>,
) -> Option<(ResponseCode, Option<Reason>)> {
    if question.query.query_class != DNSClass::IN {
        return Some((ResponseCode::Refused, Some(Reason::DnsType)));
    }
    if !name.is_some_and(|name| policy.may_resolve(name)) {
        return Some((ResponseCode::NXDomain, Some(Reason::DnsName)));
    }
    match question.query.query_type {
        // Clients ask for them beside A and AAAA, so this is nothing to report.
        RecordType::HTTPS | RecordType::SVCB => Some((ResponseCode::NoError, None)),
        kind if FORWARDED.contains(&kind) => None,
        _ => Some((ResponseCode::Refused, Some(Reason::DnsType))),
    }
}

fn respond_without_question(id: u16, op_code: u8, code: ResponseCode) -> Decision {
    let message = Message::error_msg(id, OpCode::from_u8(op_code), code);
    match message.to_vec() {
        Ok(bytes) => Decision::Respond(bytes),
        Err(_) => Decision::Ignore,
    }
}

pub(super) fn to(name: Option<Name>) -> Destination {
    Destination {
        protocol: Some(Protocol::Dns),
        name,
        ..Destination::default()
    }
}
