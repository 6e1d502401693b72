//! Interfaces, addresses and routes of the kernel (`rtnetlink(7)`), in the network namespace of the
//! calling thread.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::libc;

use super::netlink::{Answer, Attributes, Message, Netlink, attribute};

/// The length of `ifinfomsg`.
const INTERFACE: usize = 16;
/// The length of `rtmsg`.
const ROUTE: usize = 12;

// linux/if_link.h; `libc` does not have them on all its targets.
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// What is known about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: i32,
    pub(super) mtu: u32,
    pub(super) up: bool,
    /// The index of the bridge, or of whatever else, that it is a port of.
    pub(super) bridge: Option<i32>,
    /// As in `ip link add ... type KIND`; empty for hardware.
    pub(super) kind: String,
}

/// What to change of an interface.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<[u8; 6]>,
    /// The index of the bridge to which it is added.
    pub(super) bridge: Option<i32>,
    pub(super) up: bool,
}

/// A route that leads somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    /// The index of the interface, unless there are several.
    pub(super) interface: Option<i32>,
    pub(super) metric: u32,
}

/// A socket for these requests.
#[derive(Debug)]
pub(super) struct Interfaces(Netlink);

impl Interfaces {
    pub(super) fn open() -> io::Result<Interfaces> {
        Netlink::open(None).map(Interfaces)
    }

    /// The interface with this name, or alternative name.
    pub(super) fn by_name(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let attributes = Attributes::new().string(libc::IFLA_IFNAME, name);
        self.find(0, &attributes)
    }

    /// The interface with this index.
    pub(super) fn by_index(&mut self, index: i32) -> io::Result<Option<Interface>> {
        self.find(index, &Attributes::new())
    }

    fn find(&mut self, index: i32, attributes: &Attributes) -> io::Result<Option<Interface>> {
        let message = Message::new(libc::RTM_GETLINK, 0, &header(index, false)).with(attributes);
        match self.0.get(message) {
            Ok(answer) => interface(&answer)
                .map(Some)
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Changes an interface.
    pub(super) fn change(&mut self, index: i32, change: &Change) -> io::Result<()> {
        let mut attributes = Attributes::new();
        if let Some(mtu) = change.mtu {
            attributes = attributes.number(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = &change.mac {
            attributes = attributes.bytes(libc::IFLA_ADDRESS, mac);
        }
        if let Some(bridge) = change.bridge {
            attributes = attributes.number(libc::IFLA_MASTER, bridge.cast_unsigned());
        }
        let message = Message::new(libc::RTM_SETLINK, 0, &header(index, change.up));
        self.0.request(message.with(&attributes))
    }

    /// Keeps the kernel from giving the interface an IPv6 address when it goes up.
    pub(super) fn without_ipv6(&mut self, index: i32) -> io::Result<()> {
        let mode = Attributes::new().bytes(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        let family = Attributes::new().nested(libc::AF_INET6 as u16, &mode);
        let attributes = Attributes::new().nested(libc::IFLA_AF_SPEC, &family);
        let message = Message::new(libc::RTM_SETLINK, 0, &header(index, false));
        match self.0.request(message.with(&attributes)) {
            // There is no IPv6, or not on an interface with this MTU.
            Err(error) if is_unsupported(&error) => Ok(()),
            result => result,
        }
    }

    /// Adds an address to an interface. It can be used at once: nobody else is asked whether they
    /// have it.
    pub(super) fn add_address(&mut self, index: i32, address: IpNet) -> io::Result<()> {
        let (family, flags) = match address {
            IpNet::V4(_) => (libc::AF_INET, 0),
            IpNet::V6(_) => (libc::AF_INET6, libc::IFA_F_NODAD),
        };
        // `ifaddrmsg`
        let mut structure = vec![family as u8, address.prefix_len(), flags as u8, 0];
        structure.extend(index.to_ne_bytes());
        let octets = match address.addr() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let attributes = Attributes::new()
            .bytes(libc::IFA_LOCAL, &octets)
            .bytes(libc::IFA_ADDRESS, &octets);
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        let message = Message::new(libc::RTM_NEWADDR, flags, &structure).with(&attributes);
        self.0.request(message)
    }

    /// The routes of both families in all tables, among them those to the host's own addresses, but
    /// not those that reject what is sent to them.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut structure = [0; ROUTE];
            structure[0] = family as u8;
            let answers = match self.0.dump(Message::new(libc::RTM_GETROUTE, 0, &structure)) {
                // The kernel was built without IPv6.
                Err(error) if family == libc::AF_INET6 && is_unsupported(&error) => continue,
                answers => answers?,
            };
            routes.extend(answers.iter().filter_map(route));
        }
        Ok(routes)
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
    )
}

/// `ifinfomsg`, which may switch the interface on.
fn header(index: i32, up: bool) -> [u8; INTERFACE] {
    let mut header = [0; INTERFACE];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        let flag = (libc::IFF_UP as u32).to_ne_bytes();
        header[8..12].copy_from_slice(&flag);
        header[12..].copy_from_slice(&flag);
    }
    header
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_ne_bytes).ok()
}

fn interface(answer: &Answer) -> Option<Interface> {
    let header: [u8; INTERFACE] = answer.structure()?;
    let info = answer.attribute(INTERFACE, libc::IFLA_LINKINFO);
    let kind = info.and_then(|info| attribute(info, libc::IFLA_INFO_KIND));
    let kind = String::from_utf8_lossy(kind.unwrap_or_default());
    let master = answer.attribute(INTERFACE, libc::IFLA_MASTER);
    Some(Interface {
        index: number(&header[4..8])?.cast_signed(),
        mtu: number(answer.attribute(INTERFACE, libc::IFLA_MTU)?)?,
        up: number(&header[8..12])? & libc::IFF_UP as u32 != 0,
        bridge: master.and_then(number).map(u32::cast_signed),
        kind: kind.trim_end_matches('\0').to_owned(),
    })
}

fn route(answer: &Answer) -> Option<Route> {
    let header: [u8; ROUTE] = answer.structure()?;
    let [family, prefix, .., kind, _, _, _, _] = header;
    if matches!(
        kind,
        libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT | libc::RTN_THROW
    ) {
        return None;
    }
    let destination = answer.attribute(ROUTE, libc::RTA_DST);
    let destination = match i32::from(family) {
        libc::AF_INET => {
            let octets = destination.map_or(Some([0; 4]), |bytes| bytes.try_into().ok())?;
            IpAddr::from(Ipv4Addr::from(octets))
        }
        libc::AF_INET6 => {
            let octets = destination.map_or(Some([0; 16]), |bytes| bytes.try_into().ok())?;
            IpAddr::from(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    let value = |kind| answer.attribute(ROUTE, kind).and_then(number);
    Some(Route {
        destination: IpNet::new(destination, prefix).ok()?,
        interface: value(libc::RTA_OIF).map(u32::cast_signed),
        metric: value(libc::RTA_PRIORITY).unwrap_or(0),
    })
}
