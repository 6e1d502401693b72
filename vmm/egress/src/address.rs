//! Addresses with a special meaning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Services of cloud providers that give credentials to whoever asks from inside the machine. All
/// of IPv4's link-local network, because providers use several addresses of it.
const METADATA: &[IpNet] = &[
    net4(169, 254, 0, 0, 16),
    // Alibaba Cloud, Azure, Oracle Cloud.
    net4(100, 100, 100, 200, 32),
    net4(168, 63, 129, 16, 32),
    net4(192, 0, 0, 192, 32),
    // Amazon (metadata, time, DNS, credentials of pods), Google Cloud.
    net6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    net6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 32),
];

/// Addresses that the public DNS must not answer with: what they lead to depends on the host. Not
/// those for documentation and benchmarks, which lead nowhere, or to a transparent proxy.
const PRIVATE: &[IpNet] = &[
    net4(0, 0, 0, 0, 8),
    net4(10, 0, 0, 0, 8),
    net4(100, 64, 0, 0, 10),
    net4(127, 0, 0, 0, 8),
    net4(169, 254, 0, 0, 16),
    net4(172, 16, 0, 0, 12),
    net4(192, 0, 0, 0, 24),
    net4(192, 168, 0, 0, 16),
    // Multicast, reserved, broadcast.
    net4(224, 0, 0, 0, 3),
    // Unspecified, loopback, and IPv4-compatible addresses.
    net6([0, 0, 0, 0, 0, 0, 0, 0], 96),
    // The local prefix of NAT64.
    net6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    // Unique local, link-local, site-local (deprecated), multicast.
    net6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    net6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    net6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    net6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Addresses that no packet on a link may have as its destination. A user-mode network that
/// passes them to `connect(2)` would reach the host itself.
const NEVER_ON_A_LINK: &[IpNet] = &[
    net4(0, 0, 0, 0, 8),
    net4(127, 0, 0, 0, 8),
    // Unspecified, loopback, and IPv4 addresses: compatible, mapped, translated without state (SIIT).
    // The rest of the network is reserved (RFC 4291, 2.4 and 2.5.5).
    net6([0, 0, 0, 0, 0, 0, 0, 0], 64),
];

const fn net4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn net6(s: [u16; 8], prefix: u8) -> IpNet {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    IpNet::new_assert(IpAddr::V6(address), prefix)
}

/// Whether the address is that of a cloud provider's metadata service.
pub(crate) fn is_metadata(address: IpAddr) -> bool {
    any_form(address, |address| is_in(METADATA, address))
}

/// Whether the address means something only on some networks, or nothing at all.
pub(crate) fn is_private(address: IpAddr) -> bool {
    any_form(address, |address| {
        is_in(PRIVATE, address) || is_in(METADATA, address)
    })
}

/// Whether packets with these destinations are invalid on a link, all of them.
pub(crate) fn is_never_on_a_link(destinations: IpNet) -> bool {
    NEVER_ON_A_LINK
        .iter()
        .any(|network| network.contains(&destinations))
}

/// Whether `condition` holds for the address, or for the IPv4 address within it.
pub(crate) fn any_form(address: IpAddr, condition: impl Fn(IpAddr) -> bool) -> bool {
    condition(address) || embedded(address).is_some_and(|inner| condition(IpAddr::V4(inner)))
}

/// The IPv4 host that an IPv6 address leads to: mapped, compatible, NAT64 or 6to4.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let octets = address.octets();
    let inner = match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => [octets[12], octets[13], octets[14], octets[15]],
        [0x2002, ..] => [octets[2], octets[3], octets[4], octets[5]],
        _ => return None,
    };
    Some(inner.into())
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn metadata_services_are_known_in_every_form() {
        for address in addresses(&[
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
        ]) {
            assert!(is_metadata(address), "{address}");
            assert!(is_private(address), "{address}");
        }
        for address in addresses(&["169.253.1.1", "100.100.100.201", "fd00:ec3::254", "fe80::1"]) {
            assert!(!is_metadata(address), "{address}");
        }
    }

    #[test]
    fn private_addresses_are_known_in_every_form() {
        for address in addresses(&[
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:0a00:0001::1",
        ]) {
            assert!(is_private(address), "{address}");
        }
        for address in addresses(&[
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "2001:db8::1",
            "223.255.255.255",
            "2606:4700::1",
            "64:ff9b::8.8.8.8",
            "2002:0808:0808::1",
            "::ffff:8.8.8.8",
        ]) {
            assert!(!is_private(address), "{address}");
        }
    }

    #[test]
    fn destinations_that_mean_the_host_itself_are_invalid() {
        for address in addresses(&[
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "::1234:127.0.0.1",
            "::8000:0:0:0",
        ]) {
            assert!(is_never_on_a_link(address.into()), "{address}");
        }
        for address in addresses(&[
            "8.8.8.8",
            "10.0.0.1",
            "fe80::1",
            "0:0:0:1::",
            "64:ff9b::1.2.3.4",
        ]) {
            assert!(!is_never_on_a_link(address.into()), "{address}");
        }
    }
}
