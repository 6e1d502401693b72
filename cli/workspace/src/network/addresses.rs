//! The guest's addresses. They are the same in every VM of mode `user`, where each has a network of
//! its own, and given by the agent, so that nothing waits for DHCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use microagent_cas::Digest;
use microagent_proto::agent::{Address, Network};
use microagent_proto::control::NET_MTU;

use super::resolver::Hosts;
use super::tap::Link;

/// The guest's address of mode `user`, and its router's.
pub const USER_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2)];
/// The length of its prefix.
pub const USER_V4_PREFIX: u8 = 24;
/// The same for IPv6: addresses of the private range (RFC 4193), so that programs prefer IPv4 where
/// the host has no IPv6 (RFC 6724 section 2.1).
pub const USER_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0x6d61, 0, 0, 0, 0, 0, 0x15),
    Ipv6Addr::new(0xfd00, 0x6d61, 0, 0, 0, 0, 0, 2),
];
/// The length of its prefix.
pub const USER_V6_PREFIX: u8 = 64;

/// The hardware address of a guest: locally administered, and another one for every identity.
pub fn mac(identity: &str) -> [u8; 6] {
    let digest = Digest::of(identity.as_bytes());
    let mut octets = [0; 6];
    // The digest has 64 characters.
    for (octet, pair) in octets.iter_mut().zip(digest.hex().as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).unwrap_or_default();
        *octet = u8::from_str_radix(pair, 16).unwrap_or_default();
    }
    octets[0] = octets[0] & !1 | 2;
    octets
}

/// What the agent configures in mode `user`.
pub fn user(mac: [u8; 6], hosts: &Hosts) -> Network {
    Network {
        mac,
        mtu: NET_MTU.into(),
        addresses: vec![
            Address {
                address: IpAddr::V4(USER_V4[0]),
                prefix: USER_V4_PREFIX,
                gateway: Some(IpAddr::V4(USER_V4[1])),
            },
            Address {
                address: IpAddr::V6(USER_V6[0]),
                prefix: USER_V6_PREFIX,
                gateway: Some(IpAddr::V6(USER_V6[1])),
            },
        ],
        resolver: true,
        search: hosts.search.clone(),
    }
}

/// What the agent configures on an interface of the host. On a bridge the addresses are those of
/// another network: a DHCP client of the guest gets them, or a router announces them.
pub fn of_link(mac: [u8; 6], link: &Link, hosts: &Hosts) -> Network {
    let mut addresses = Vec::new();
    if let Some(subnet) = link.subnet() {
        addresses.push(Address {
            address: IpAddr::V4(subnet.guest().addr()),
            prefix: subnet.guest().prefix_len(),
            gateway: Some(IpAddr::V4(subnet.host().addr())),
        });
        if let (Some(guest), Some(host)) = (subnet.guest_v6(), subnet.host_v6()) {
            addresses.push(Address {
                address: IpAddr::V6(guest.addr()),
                prefix: guest.prefix_len(),
                gateway: Some(IpAddr::V6(host.addr())),
            });
        }
    }
    Network {
        mac,
        mtu: link.mtu().into(),
        addresses,
        resolver: true,
        search: hosts.search.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unicast_local_and_differ() {
        let (a, b) = (mac("a"), mac("b"));
        assert_eq!(a, mac("a"));
        assert_ne!(a, b);
        for address in [a, b] {
            assert_eq!(address[0] & 3, 2);
        }
        // SHA-256 of "a" begins with ca978112ca1b.
        assert_eq!(a, [0xca, 0x97, 0x81, 0x12, 0xca, 0x1b]);
    }
}
