//! Who the guest is on its link.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::packet::Mac;

/// The addresses of a guest. Whatever else it uses as a source is spoofed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IPv4 address, with the prefix length of its network.
    pub ipv4: Option<Ipv4Net>,
    /// Its IPv6 addresses, with the prefix lengths of their networks. The link-local address that
    /// follows from `mac` need not be among them.
    pub ipv6: Vec<Ipv6Net>,
    /// Its routers, which may be outside its networks.
    pub gateways: Vec<IpAddr>,
}

/// All addresses of IPv6 that are valid on one link only.
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

impl Guest {
    /// Whether `address` is one of the guest's.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|own| own.addr() == address),
            IpAddr::V6(address) => {
                self.ipv6.iter().any(|own| own.addr() == address) || address == link_local(self.mac)
            }
        }
    }

    /// Whether `address` is on the guest's link, or that of a router.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        let is_in_network = match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|own| own.contains(&address)),
            IpAddr::V6(address) => {
                LINK_LOCAL.contains(&address) || self.ipv6.iter().any(|own| own.contains(&address))
            }
        };
        is_in_network || self.gateways.contains(&address)
    }

    /// Whether IPv4 packets to `address` go to several hosts.
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else {
            return false;
        };
        // Networks of one or two addresses have no broadcast address (RFC 3021).
        let is_directed = |own: Ipv4Net| own.prefix_len() < 31 && own.broadcast() == address;
        address.is_broadcast() || self.ipv4.is_some_and(is_directed)
    }
}

/// The link-local address that follows from a hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    let pair = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_follows_from_the_hardware_address() {
        let expected: Ipv6Addr = "fe80::5054:ff:fe12:3456".parse().unwrap();
        assert_eq!(link_local([0x52, 0x54, 0, 0x12, 0x34, 0x56]), expected);
    }

    #[test]
    fn addresses_belong_to_the_guest_or_to_its_link() {
        let guest = Guest {
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            ipv4: Some("10.0.2.15/24".parse().unwrap()),
            ipv6: vec!["fd00:1::2/64".parse().unwrap()],
            gateways: vec!["192.0.2.1".parse().unwrap()],
        };
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        for own in ["10.0.2.15", "fd00:1::2", "fe80::5054:ff:fe12:3456"] {
            assert!(guest.owns(address(own)), "{own}");
        }
        for other in ["10.0.2.2", "fd00:1::3", "fe80::1", "0.0.0.0"] {
            assert!(!guest.owns(address(other)), "{other}");
        }
        for near in ["10.0.2.2", "fd00:1::3", "fe80::1", "192.0.2.1"] {
            assert!(guest.is_on_link(address(near)), "{near}");
        }
        for far in ["10.0.3.2", "fd00:2::3", "192.0.2.2"] {
            assert!(!guest.is_on_link(address(far)), "{far}");
        }
        assert!(guest.is_broadcast(address("10.0.2.255")));
        assert!(guest.is_broadcast(address("255.255.255.255")));
        assert!(!guest.is_broadcast(address("10.0.3.255")));
    }
}
