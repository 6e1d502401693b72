//! The addresses of VMs in network mode `nat`.
//!
//! Each VM has a slot, and each slot a /30 of one of the [`RANGES`]: the first address is the host's,
//! the second the guest's. With IPv6 it also has a /64 of [`RANGE_V6`]. A slot whose /30 the host has
//! an address in or a route to is not used, so a VM never takes addresses from what the host already
//! reaches.
//!
//! **The interface's name is the lock of its slot**: the kernel creates an interface with a name only
//! if there is none, in one step, and in just the scope in which addresses must differ, the network
//! namespace. It deletes the interface when its processes have ended, so a slot cannot be lost.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use microagent_vmm::virtio::net::{Tap, TapError};

use super::error::InterfaceError;

/// The ranges of addresses, in the order in which they are tried. They are private, or reserved for
/// benchmarks (RFC 2544), and not the default of a program that we know of, but the second, which
/// Docker reaches with its fourteenth network. A host with a route to all of 10.0.0.0/8 uses the
/// second, and so on.
pub const RANGES: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 30, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 208, 0), 20),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 16),
];

/// The range of IPv6 addresses: a random unique local prefix (RFC 4193).
pub const RANGE_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfdc4, 0x0f09, 0xce4f, 0, 0, 0, 0, 0), 48);

/// The beginning of the names of all interfaces in mode `nat`; the slot follows.
pub const NAME_PREFIX: &str = "mavm";

/// A route to more addresses than a /8 is one to everywhere, as VPNs have it in two halves.
const SHORTEST_PREFIX: u8 = 8;

const SUBNET_PREFIX: u8 = 30;

/// The addresses of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    slot: Slot,
    ipv6: bool,
}

impl Subnet {
    /// The host's address, with the length of the prefix. It is the guest's default gateway.
    pub fn host(&self) -> Ipv4Net {
        self.slot.address(1)
    }

    /// The guest's address, with the length of the prefix.
    pub fn guest(&self) -> Ipv4Net {
        self.slot.address(2)
    }

    /// The same for IPv6, if the host forwards it.
    pub fn host_v6(&self) -> Option<Ipv6Net> {
        self.ipv6.then(|| self.slot.address_v6(1))
    }

    /// The same for IPv6, if the host forwards it.
    pub fn guest_v6(&self) -> Option<Ipv6Net> {
        self.ipv6.then(|| self.slot.address_v6(2))
    }

    /// The MAC address of the host's side. It follows from the addresses, so a guest that is restored
    /// with the same ones still knows the right one.
    pub(super) fn host_mac(&self) -> [u8; 6] {
        let [high, low] = self.slot.number.to_be_bytes();
        [0xfe, 0x6d, 0x61, 0x76, high, low]
    }
}

/// One /30 of the ranges, numbered through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    number: u16,
    subnet: Ipv4Net,
}

impl fmt::Display for Slot {
    /// The name of its interface.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME_PREFIX}{}", self.number)
    }
}

/// The number of slots of a range.
fn slots(range: &Ipv4Net) -> u16 {
    1 << (SUBNET_PREFIX - range.prefix_len())
}

impl Slot {
    /// The slots of a range, from one that depends on `name`.
    fn all_of(range: usize, name: &str) -> impl Iterator<Item = Slot> {
        let before: u16 = RANGES.iter().take(range).map(slots).sum();
        let base = RANGES.get(range).map_or(0, |range| range.addr().to_bits());
        let count = RANGES.get(range).map_or(0, slots);
        let start = hash(name) % count.max(1);
        (0..count).map(move |n| {
            let index = (start + n) % count;
            let address = Ipv4Addr::from_bits(base + (u32::from(index) << (32 - SUBNET_PREFIX)));
            Slot {
                number: before + index,
                subnet: Ipv4Net::new_assert(address, SUBNET_PREFIX),
            }
        })
    }

    fn address(self, host: u32) -> Ipv4Net {
        let address = Ipv4Addr::from_bits(self.subnet.addr().to_bits() + host);
        Ipv4Net::new_assert(address, SUBNET_PREFIX)
    }

    fn subnet_v6(self) -> Ipv6Net {
        let mut segments = RANGE_V6.addr().segments();
        segments[3] = self.number;
        Ipv6Net::new_assert(Ipv6Addr::from(segments), 64)
    }

    fn address_v6(self, host: u16) -> Ipv6Net {
        let subnet = self.subnet_v6();
        let mut segments = subnet.addr().segments();
        segments[7] = host;
        Ipv6Net::new_assert(Ipv6Addr::from(segments), subnet.prefix_len())
    }
}

/// FNV-1a, folded: any spread will do, but the same name has the same number in every version.
fn hash(name: &str) -> u16 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ hash >> 16) as u16
}

/// What the host has addresses in or routes to, as far as it concerns the ranges.
#[derive(Debug, Default)]
pub(super) struct Taken {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl Taken {
    pub(super) fn new(destinations: impl IntoIterator<Item = IpNet>) -> Taken {
        let mut taken = Taken::default();
        for destination in destinations {
            match destination {
                IpNet::V4(net)
                    if net.prefix_len() >= SHORTEST_PREFIX
                        && RANGES.iter().any(|range| overlap(range, &net)) =>
                {
                    taken.v4.push(net);
                }
                IpNet::V6(net)
                    if net.prefix_len() > 0
                        && (net.contains(&RANGE_V6) || RANGE_V6.contains(&net)) =>
                {
                    taken.v6.push(net);
                }
                _ => {}
            }
        }
        taken
    }

    fn has(&self, slot: Slot) -> bool {
        self.v4.iter().any(|net| overlap(net, &slot.subnet))
    }

    fn has_v6(&self, slot: Slot) -> bool {
        let subnet = slot.subnet_v6();
        self.v6
            .iter()
            .any(|net| net.contains(&subnet) || subnet.contains(net))
    }
}

fn overlap(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(other) || other.contains(one)
}

/// Takes a slot: creates its interface. A VM with the same `name` gets the same addresses as before
/// if they are free.
pub(super) fn take(
    name: &str,
    taken: &Taken,
    ipv6: bool,
) -> Result<(OwnedFd, String, Subnet), InterfaceError> {
    for (index, range) in RANGES.iter().enumerate() {
        if taken.v4.iter().any(|net| net.contains(range)) {
            continue;
        }
        for slot in Slot::all_of(index, name).filter(|slot| !taken.has(*slot)) {
            match Tap::create(&slot.to_string()) {
                Ok((tap, name)) => {
                    let ipv6 = ipv6 && !taken.has_v6(slot);
                    return Ok((tap, name, Subnet { slot, ipv6 }));
                }
                Err(TapError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let ranges: Vec<String> = RANGES.iter().map(ToString::to_string).collect();
    Err(InterfaceError::Addresses(ranges.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots_of(range: usize, name: &str) -> Vec<Slot> {
        Slot::all_of(range, name).collect()
    }

    #[test]
    fn every_slot_has_its_own_addresses_in_its_range() {
        let mut before = None;
        for (index, range) in RANGES.iter().enumerate() {
            let mut slots = slots_of(index, "a name");
            slots.sort_unstable();
            for slot in slots {
                let subnet = Subnet { slot, ipv6: true };
                assert!(range.contains(&slot.subnet), "{slot}");
                assert!(slot.subnet.contains(&subnet.guest().addr()));
                assert_eq!(subnet.host().prefix_len(), 30);
                assert!(RANGE_V6.contains(&subnet.guest_v6().unwrap()));
                assert!(slot.to_string().len() < 16);
                // Ranges ascend, and so do the slots in them: none is there twice.
                assert!(before < Some((slot, subnet.guest())), "{slot}");
                before = Some((slot, subnet.guest()));
            }
        }
        let count = before.unwrap().0.number + 1;
        assert_eq!(count, 3 * (1 << 14) + (1 << 10));
    }

    #[test]
    fn a_name_has_the_same_addresses_in_every_version() {
        let slot = slots_of(0, "research")[0];
        let subnet = Subnet { slot, ipv6: true };
        assert_eq!(subnet.guest().to_string(), "10.213.176.94/30");
        assert_eq!(subnet.host().to_string(), "10.213.176.93/30");
        assert_eq!(
            subnet.guest_v6().unwrap().to_string(),
            "fdc4:f09:ce4f:2c17::2/64"
        );
        assert_ne!(slots_of(0, "research2")[0], slot);
    }

    #[test]
    fn what_the_host_reaches_is_taken() {
        let taken = |nets: &[&str]| Taken::new(nets.iter().map(|net| net.parse().unwrap()));
        let slot = slots_of(0, "")[0];
        let (address, neighbour) = (slot.address(2).addr(), slot.subnet.broadcast());
        for net in [
            "10.0.0.0/8",
            "10.213.0.0/16",
            &format!("{address}/32"),
            &format!("{neighbour}/32"),
            &format!("{address}/23"),
        ] {
            assert!(taken(&[net]).has(slot), "{net}");
        }
        for net in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "8.0.0.0/7",
            "10.212.0.0/16",
            "172.16.0.0/12",
        ] {
            assert!(!taken(&[net]).has(slot), "{net}");
        }
        assert!(taken(&["172.16.0.0/12"]).has(slots_of(1, "")[0]));
        assert!(taken(&["fdc4::/16"]).has_v6(slot));
        assert!(!taken(&["::/0", "fdc5::/16", "10.0.0.0/8"]).has_v6(slot));
    }
}
