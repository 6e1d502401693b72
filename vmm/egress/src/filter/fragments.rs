//! Fragments: later parts of a packet follow the first, which was allowed, in order.
//!
//! Parts that overlap, leave gaps or come before the first are what makes different receivers put
//! together different packets; senders do not produce them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::packet::{Fragment, Packet};
use crate::reason::Reason;

/// The maximum number of packets in parts at a time. The oldest gives way.
const MAX_PACKETS: usize = 64;
/// How long the parts of a packet may take.
const LIFETIME: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    id: u32,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    /// Where the next part begins.
    next: usize,
    since: Instant,
}

/// Packets of which a first part was allowed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    entries: Vec<Entry>,
}

impl Fragments {
    /// Notes that the first part was allowed. Later parts of an earlier packet with the same
    /// identification are no longer expected.
    pub(super) fn allow(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        now: Instant,
    ) -> Result<(), Reason> {
        let next = fragment.end(packet.payload_len).ok_or(Reason::Fragment)?;
        let key = key(packet, fragment);
        self.entries.retain(|entry| entry.key != key);
        if self.entries.len() >= MAX_PACKETS {
            self.entries.remove(0);
        }
        let since = now;
        self.entries.push(Entry { key, next, since });
        Ok(())
    }

    /// Decides about a later part.
    pub(super) fn follow(
        &mut self,
        packet: &Packet<'_>,
        fragment: Fragment,
        now: Instant,
    ) -> Result<(), Reason> {
        let end = fragment.end(packet.payload_len).ok_or(Reason::Fragment)?;
        let key = key(packet, fragment);
        let position = self.entries.iter().position(|entry| {
            entry.key == key
                && entry.next == fragment.offset
                && now.saturating_duration_since(entry.since) < LIFETIME
        });
        let position = position.ok_or(Reason::Fragment)?;
        if !fragment.more {
            self.entries.remove(position);
        } else if let Some(entry) = self.entries.get_mut(position) {
            entry.next = end;
        }
        Ok(())
    }
}

fn key(packet: &Packet<'_>, fragment: Fragment) -> Key {
    Key {
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        id: fragment.id,
    }
}
