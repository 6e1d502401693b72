//! Which names an address was answered for, and until when.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::name::Name;

/// The maximum number of pins. When it is reached, those that end first are dropped.
const MAX_PINS: usize = 8192;
/// The maximum number of names of an address: what a decision costs. More are not pinned.
const MAX_NAMES: usize = 64;

/// The addresses that a name was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The name that was asked for.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long they may be used for new connections.
    pub lifetime: Duration,
}

/// The pins of a guest.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    by_address: HashMap<IpAddr, Vec<(Name, Instant)>>,
    count: usize,
}

impl Pins {
    pub(crate) fn add(&mut self, pin: &Pin, now: Instant) {
        let Some(end) = now.checked_add(pin.lifetime) else {
            return;
        };
        for address in &pin.addresses {
            if self.count >= MAX_PINS {
                self.make_room(now);
            }
            let names = self.by_address.entry(*address).or_default();
            let before = names.len();
            names.retain(|(_, end)| *end > now);
            if let Some((_, old)) = names.iter_mut().find(|(name, _)| *name == pin.name) {
                *old = end.max(*old);
            } else if names.len() < MAX_NAMES {
                names.push((pin.name.clone(), end));
            }
            self.count = self.count + names.len() - before;
        }
    }

    /// The names that `address` was answered for.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> Vec<Name> {
        let names = self.by_address.get(&address).map_or(&[][..], Vec::as_slice);
        names
            .iter()
            .filter(|(_, end)| *end > now)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Drops what has ended and, if that is too little, the eighth that ends first.
    fn make_room(&mut self, now: Instant) {
        let mut ends: Vec<Instant> = self
            .by_address
            .values()
            .flatten()
            .map(|(_, end)| *end)
            .filter(|end| *end > now)
            .collect();
        let limit = if ends.len() > MAX_PINS / 8 * 7 {
            let (_, limit, _) = ends.select_nth_unstable(MAX_PINS / 8);
            *limit
        } else {
            now
        };
        self.by_address.retain(|_, names| {
            names.retain(|(_, end)| *end > limit);
            !names.is_empty()
        });
        self.count = self.by_address.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(name: &str, addresses: &[IpAddr], seconds: u64) -> Pin {
        Pin {
            name: name.parse().unwrap(),
            addresses: addresses.to_vec(),
            lifetime: Duration::from_secs(seconds),
        }
    }

    fn names(pins: &Pins, address: IpAddr, now: Instant) -> Vec<String> {
        let names = pins.names(address, now);
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pin_ends() {
        let (a, b) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pins = Pins::default();
        pins.add(&pin("one.example", &[a, b], 10), start);
        pins.add(&pin("two.example", &[a], 20), start);
        // Extended, never shortened.
        pins.add(&pin("one.example", &[b], 30), at(5));
        pins.add(&pin("one.example", &[b], 1), at(6));
        assert_eq!(names(&pins, a, at(9)), ["one.example", "two.example"]);
        assert_eq!(names(&pins, a, at(10)), ["two.example"]);
        assert_eq!(names(&pins, a, at(20)), [""; 0]);
        assert_eq!(names(&pins, b, at(34)), ["one.example"]);
        assert_eq!(names(&pins, b, at(35)), [""; 0]);
    }

    #[test]
    fn pins_are_bounded() {
        let now = Instant::now();
        let mut pins = Pins::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..20_000 {
            pins.add(
                &pin("a.example", &[address(number)], 1 + u64::from(number)),
                now,
            );
            assert!(pins.count <= MAX_PINS);
        }
        let count: usize = pins.by_address.values().map(Vec::len).sum();
        assert_eq!(pins.count, count);
        // The longest lived are kept.
        for number in 13_000..20_000 {
            assert_eq!(names(&pins, address(number), now), ["a.example"]);
        }
        for number in 0..1000 {
            pins.add(
                &pin(&format!("n{number}.example"), &[address(1)], 100_000),
                now,
            );
        }
        assert_eq!(names(&pins, address(1), now).len(), MAX_NAMES);
        // All of the same end: none can be preferred.
        let mut pins = Pins::default();
        for number in 0..20_000 {
            pins.add(&pin("a.example", &[address(number)], 1), now);
            assert!(pins.count <= MAX_PINS);
        }
    }
}
