//! Why something was refused.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a frame or a DNS message was refused.
        ///
        /// A closed list: each is a key in status documents, in camel case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All of them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name),+];

            /// The reason in a few words, for people.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// A header is truncated or contradicts itself.
    Malformed = "malformed packet",
    /// Neither ARP, IPv4 nor IPv6, so that it cannot be told on whose behalf it is sent.
    EtherType = "neither IPv4, IPv6 nor ARP",
    /// A VLAN tag, which leads to other networks and hides what follows.
    Vlan = "VLAN tag",
    /// The hardware address of the sender is not the guest's.
    SourceMac = "foreign hardware address",
    /// The source address is not the guest's.
    SourceAddress = "foreign source address",
    /// ARP that speaks for an address that is not the guest's, or asks for one outside its network.
    Arp = "ARP for a foreign address",
    /// IPv6 neighbour discovery that speaks for others or for a router, or asks for an address
    /// outside the guest's networks; ICMP redirects.
    NeighborDiscovery = "neighbour discovery for a foreign address",
    /// DHCP: a guest's addresses are configured, and it is no server.
    Dhcp = "DHCP",
    /// Loopback, unspecified or IPv4-mapped: a user-mode network could take it for the host itself.
    Destination = "destination that is not valid on a link",
    /// An IP unicast packet in a broadcast or multicast frame.
    LinkDestination = "wrong hardware address of the destination",
    /// Broadcast or multicast, other than ARP and neighbour discovery.
    Multicast = "broadcast or multicast",
    /// IPv4 options, such as source routes.
    IpOptions = "IPv4 options",
    /// IPv6 extension headers other than fragments and those of multicast listener reports.
    ExtensionHeader = "IPv6 extension header",
    /// A fragment of TCP or of neighbour discovery, without an allowed first one, out of order,
    /// overlapping, or too short.
    Fragment = "fragment",
    /// An IP protocol other than TCP, UDP and ICMP.
    Protocol = "neither TCP, UDP nor ICMP",
    /// A kind of ICMP message other than echo and errors.
    IcmpType = "ICMP type",
    /// DNS to another server than the one given.
    Dns = "DNS to another server",
    /// DNS over TLS or QUIC.
    EncryptedDns = "DNS over TLS or QUIC",
    /// Multicast DNS or link-local multicast name resolution.
    LocalNames = "multicast name resolution",
    /// A metadata service of a cloud provider, and no rule for its address allows it.
    Metadata = "cloud metadata service",
    /// A rule denies it.
    Rule = "denied by a rule",
    /// No rule allows it.
    NoRule = "not allowed by a rule",
    /// The address was answered for several names that rules treat differently, and there is no
    /// TLS server name to tell them apart.
    AmbiguousName = "address of several names, without a TLS server name",
    /// The server name of TLS is not one that the rules allow at this address.
    ServerName = "TLS server name",
    /// The beginning of a TLS connection cannot be understood.
    ClientHello = "invalid TLS ClientHello",
    /// QUIC, where the server name, which is encrypted, would have to be checked.
    Quic = "QUIC where the server name matters",
    /// A TCP segment of a connection that the guest did not open.
    NoConnection = "TCP without a connection",
    /// TCP data that are out of order, or contradict data sent before, while the server name is
    /// being checked.
    Sequence = "contradictory TCP data",
    /// Too much waits for a decision.
    HoldLimit = "too many undecided connections",
    /// A DNS query for a name that no rule can allow.
    DnsName = "DNS name not allowed by a rule",
    /// A DNS query of a type that is not forwarded.
    DnsType = "DNS query type",
    /// A malformed DNS message.
    DnsMessage = "malformed DNS message",
    /// Private addresses in a DNS answer, which no rule for addresses allows.
    DnsAddress = "private address in a DNS answer",
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_camel_case() {
        let names: Vec<String> = Reason::ALL
            .iter()
            .map(|reason| serde_json::to_string(reason).unwrap())
            .collect();
        assert_eq!(names.len(), 33);
        assert_eq!(names[0], "\"malformed\"");
        assert_eq!(names[4], "\"sourceAddress\"");
        assert_eq!(names[32], "\"dnsAddress\"");
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
