//! The filter for DNS messages, between a guest and the servers of its host.
//!
//! The caller moves the messages: a query of the guest to [`Answerer::query`], what that forwards to
//! a server, and the server's response to [`Answerer::response`]. Addresses are pinned
//! ([`Filter::pin`](crate::Filter::pin)) before the guest gets the answer.

mod answer;
mod message;
mod query;

use crate::name::Name;
use crate::pins::Pin;
use crate::policy::Policy;
use message::Question;

/// How a message is transported, which limits its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP: responses that are longer than the client accepts are truncated.
    Udp,
    /// TCP, or another stream.
    Tcp,
}

/// What to do with a query.
#[derive(Debug)]
pub enum Decision {
    /// Ask a server.
    Forward(Forward),
    /// Answer the guest.
    Respond(Vec<u8>),
    /// Nothing: it is not a query.
    Ignore,
}

/// A query that is forwarded.
#[derive(Clone, Debug)]
pub struct Forward {
    /// The message for the server. It contains nothing of the guest's but the question.
    pub message: Vec<u8>,
    /// The name that is asked for, if it is a host name.
    pub name: Option<Name>,
    upstream_id: u16,
    question: Question,
    transport: Transport,
}

/// What a message from a server means.
#[derive(Debug)]
pub enum Response {
    /// It is the answer.
    Answer {
        /// The message for the guest.
        message: Vec<u8>,
        /// What to pin before the guest gets it.
        pin: Option<Pin>,
    },
    /// It was truncated: ask again over TCP.
    RetryOverTcp,
    /// It does not answer the query. The answer may still come.
    Unrelated,
}

/// Decides which queries are forwarded, and what of the responses reaches the guest.
///
/// With a policy:
///
/// - Names that no rule can allow are answered with NXDOMAIN.
/// - Forwarded are queries of one question, in the class IN, for A, AAAA, CAA, CNAME, MX, NAPTR, NS,
///   PTR, SOA, SRV and TXT. HTTPS and SVCB get an empty answer, other types REFUSED.
/// - An answer contains the chain of CNAME records from the name that was asked for, and the records
///   at its end; and an SOA record if there are none. A chain through a name that a rule denies is
///   answered with NXDOMAIN.
/// - Private addresses are removed from it unless a rule for addresses allows them.
/// - Guests may keep it for an hour at most. Its addresses are pinned for as long, but for at least
///   5 seconds, and 5 seconds more for the time until the guest connects.
///
/// Without a policy messages are passed on as they are, if they are valid and related.
#[derive(Clone, Debug)]
pub struct Answerer {
    policy: Option<Policy>,
}

impl Answerer {
    /// An answerer for one guest.
    pub fn new(policy: Option<Policy>) -> Self {
        Self { policy }
    }
}

#[cfg(test)]
mod tests;
