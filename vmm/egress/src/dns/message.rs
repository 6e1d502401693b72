//! Messages of our own.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name as WireName;

use super::Transport;
use crate::name::Name;

/// The length of a header.
pub(super) const HEADER: usize = 12;
/// The maximum length of a response over UDP, whatever the client accepts.
const MAX_UDP: u16 = 4096;
/// What we accept over UDP, which is not fragmented on common networks.
pub(super) const OUR_UDP: u16 = 1232;

/// What a guest has asked.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) id: u16,
    pub(super) query: Query,
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    /// The maximum length of the response over UDP, if the query had an OPT record.
    pub(super) edns: Option<u16>,
}

impl Question {
    /// A response without records.
    pub(super) fn respond(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.response_code = code;
        message.queries.push(self.query.clone());
        if self.edns.is_some() {
            message.edns = Some(our_edns());
        }
        message
    }

    /// The maximum length of the response.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match transport {
            Transport::Udp => self.edns.unwrap_or(512).clamp(512, MAX_UDP).into(),
            Transport::Tcp => u16::MAX.into(),
        }
    }

    /// Encodes a response to it; one that is too long without its records.
    pub(super) fn encode(&self, message: &Message, transport: Transport) -> Vec<u8> {
        let encoded = message.to_vec().ok();
        encoded
            .filter(|bytes| bytes.len() <= self.limit(transport))
            .or_else(|| message.truncate().to_vec().ok())
            // A question of at most 255 bytes can always be encoded.
            .unwrap_or_default()
    }
}

pub(super) fn our_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(OUR_UDP);
    edns
}

/// The number at `offset` of a message.
pub(super) fn number(message: &[u8], offset: usize) -> Option<u16> {
    let bytes = message.get(offset..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Whether the header of a message says that it is a response.
pub(super) fn is_response(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0x80 != 0)
}

/// Parses a message with one question.
///
/// The count is checked first, because the parser reserves memory for as many as the header says.
pub(super) fn parse(message: &[u8]) -> Option<(Message, Query)> {
    if number(message, 4) != Some(1) {
        return None;
    }
    let message = Message::from_vec(message).ok()?;
    let query = message.queries.first()?.clone();
    Some((message, query))
}

/// The name as a host name. One with other characters, or a dot within a label, is none.
pub(super) fn host_name(name: &WireName) -> Option<Name> {
    let mut text = Vec::with_capacity(name.len());
    for label in name.iter() {
        if label.contains(&b'.') {
            return None;
        }
        text.extend_from_slice(label);
        text.push(b'.');
    }
    Name::from_ascii(&text).ok()
}
