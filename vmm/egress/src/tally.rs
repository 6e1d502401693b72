//! Counts of what was refused, and the first of each kind.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::reason::Reason;

/// The maximum number of records for a reason; what exceeds it is only counted.
const MAX_RECORDS: usize = 8;

/// Refusals that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// To where.
    #[serde(flatten)]
    pub to: Destination,
    /// How many.
    pub count: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.to, self.reason)
    }
}

/// Where something that was refused would have gone, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// A name that was asked for, that the address was answered for, or that TLS names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.protocol {
            Some(Protocol::Tcp) => "TCP",
            Some(Protocol::Udp) => "UDP",
            Some(Protocol::Icmp) => "ICMP",
            Some(Protocol::Dns) => "a DNS query",
            None if self.address.is_some() => "a packet",
            None => "a frame",
        })?;
        let preposition = match self.protocol {
            Some(Protocol::Dns) => "for",
            _ => "to",
        };
        let address = self.address.map(|address| match self.port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        });
        match (&self.name, address) {
            (None, None) => Ok(()),
            (None, Some(address)) => write!(formatter, " {preposition} {address}"),
            (Some(name), None) => write!(formatter, " {preposition} {name}"),
            (Some(name), Some(address)) => write!(formatter, " {preposition} {name} at {address}"),
        }
    }
}

/// Protocols that rules distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// A query to our DNS server.
    Dns,
}

/// Counts per [`Reason`], and a bounded list of what was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    counts: BTreeMap<Reason, u64>,
    refusals: Vec<Refusal>,
    /// How many of `refusals` were handed out by [`Tally::take_new`].
    taken: usize,
}

impl Tally {
    /// Counts a refusal.
    pub fn add(&mut self, reason: Reason, to: Destination) {
        *self.counts.entry(reason).or_default() += 1;
        let alike = |refusal: &&mut Refusal| refusal.reason == reason;
        let mut records = 0;
        for refusal in self.refusals.iter_mut().filter(alike) {
            if refusal.to == to {
                refusal.count += 1;
                return;
            }
            records += 1;
        }
        if records < MAX_RECORDS {
            self.refusals.push(Refusal {
                reason,
                to,
                count: 1,
            });
        }
    }

    /// How often each reason occurred.
    pub fn counts(&self) -> &BTreeMap<Reason, u64> {
        &self.counts
    }

    /// How often `reason` occurred.
    #[cfg(test)]
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.counts.get(&reason).copied().unwrap_or(0)
    }

    /// The first refusals of each kind, in order of their first occurrence.
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The refusals that were not known at the last call.
    pub fn take_new(&mut self) -> &[Refusal] {
        let new = self.refusals.get(self.taken..).unwrap_or(&[]);
        self.taken = self.refusals.len();
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(port: u16) -> Destination {
        Destination {
            protocol: Some(Protocol::Tcp),
            address: Some("192.0.2.1".parse().unwrap()),
            port: Some(port),
            name: None,
        }
    }

    #[test]
    fn the_first_of_a_kind_are_listed_and_all_are_counted() {
        let mut tally = Tally::default();
        for port in 1..=20 {
            tally.add(Reason::Rule, to(port));
            tally.add(Reason::Rule, to(1));
        }
        tally.add(Reason::Vlan, Destination::default());
        assert_eq!(tally.count(Reason::Rule), 40);
        assert_eq!(tally.count(Reason::NoRule), 0);
        let counts: Vec<(u16, u64)> = tally
            .refusals()
            .iter()
            .filter_map(|refusal| Some((refusal.to.port?, refusal.count)))
            .collect();
        assert_eq!(
            counts,
            [
                (1, 21),
                (2, 1),
                (3, 1),
                (4, 1),
                (5, 1),
                (6, 1),
                (7, 1),
                (8, 1)
            ]
        );
        assert_eq!(tally.take_new().len(), 9);
        assert_eq!(tally.take_new().len(), 0);
        tally.add(Reason::Vlan, Destination::default());
        tally.add(Reason::NoRule, to(5));
        assert_eq!(tally.take_new().len(), 1);
        assert_eq!(
            serde_json::to_string(&tally.refusals()[8..]).unwrap(),
            r#"[{"reason":"vlan","count":2},{"reason":"noRule","protocol":"tcp","address":"192.0.2.1","port":5,"count":1}]"#
        );
        assert_eq!(
            serde_json::to_string(tally.counts()).unwrap(),
            r#"{"vlan":2,"rule":40,"noRule":1}"#
        );
    }

    #[test]
    fn refusals_are_described_as_far_as_they_are_known() {
        let shown = |reason, protocol, address: Option<&str>, port, name: Option<&str>| {
            let to = Destination {
                protocol,
                address: address.map(|text| text.parse().unwrap()),
                port,
                name: name.map(|text| text.parse().unwrap()),
            };
            Refusal {
                reason,
                to,
                count: 2,
            }
            .to_string()
        };
        let (v4, v6) = (Some("192.0.2.1"), Some("2001:db8::1"));
        let name = Some("a.example");
        for (shown, expected) in [
            (
                shown(Reason::NoRule, Some(Protocol::Tcp), v4, Some(80), None),
                "TCP to 192.0.2.1:80: not allowed by a rule",
            ),
            (
                shown(Reason::Rule, Some(Protocol::Udp), v6, Some(9), name),
                "UDP to a.example at [2001:db8::1]:9: denied by a rule",
            ),
            (
                shown(Reason::Rule, Some(Protocol::Icmp), v6, None, None),
                "ICMP to 2001:db8::1: denied by a rule",
            ),
            (
                shown(Reason::DnsName, Some(Protocol::Dns), None, None, name),
                "a DNS query for a.example: DNS name not allowed by a rule",
            ),
            (
                shown(Reason::DnsMessage, Some(Protocol::Dns), None, None, None),
                "a DNS query: malformed DNS message",
            ),
            (
                shown(Reason::IpOptions, None, v4, None, None),
                "a packet to 192.0.2.1: IPv4 options",
            ),
            (
                shown(Reason::Vlan, None, None, None, None),
                "a frame: VLAN tag",
            ),
        ] {
            assert_eq!(shown, expected);
        }
    }
}
