//! Network mode `nat`: a TAP interface with addresses from the [pool](super::pool), whose packets
//! leave the host under the host's own addresses (`rules`).
//!
//! The host must forward IPv4; it is never switched on here, because that makes a router of a host
//! that has several networks. If it forwards IPv6 too, the VM has an IPv6 address.

use std::io;

use ipnet::IpNet;
use nix::libc;

use super::error::InterfaceError;
use super::firewall;
use super::interface::{Change, Interfaces, Route};
use super::link::Link;
use super::pool::{self, Taken};
use super::rules;

/// The MTU if the host has no default route.
const ETHERNET_MTU: u32 = 1500;
/// What IPv6 needs, and what a TAP interface of Linux has at most.
const MTUS: (u32, u32) = (1280, 65_521);

/// Makes the interface of a VM. `name` is that of the VM: with the same name it gets the same
/// addresses as before, if they are free.
///
/// # Errors
/// [`InterfaceError::Forwarding`] if the host does not forward IPv4, [`InterfaceError::Permission`]
/// without `CAP_NET_ADMIN`, [`InterfaceError::Addresses`] if there are none left; others of
/// [`InterfaceError`].
pub fn open(name: &str) -> Result<Link, InterfaceError> {
    let io = InterfaceError::io;
    if !is_on("/proc/sys/net/ipv4/ip_forward").map_err(io("query IPv4 forwarding"))? {
        return Err(InterfaceError::Forwarding);
    }
    let ipv6 = has_ipv6().map_err(io("query IPv6 forwarding"))?;
    let mut interfaces = Interfaces::open().map_err(io("query network interfaces"))?;
    let routes = interfaces.routes().map_err(io("query routes"))?;
    let mtu = mtu_towards_others(&mut interfaces, &routes).map_err(io("query the MTU"))?;
    let taken = Taken::new(routes.into_iter().map(|route| route.destination));
    let (tap, name, subnet) = pool::take(name, &taken, ipv6)?;
    let rules = rules::install(&name, &subnet).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => InterfaceError::Permission,
        _ => InterfaceError::Rules(source),
    })?;
    let interface = interfaces
        .by_name(&name)
        .and_then(|interface| interface.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(io("query the TAP interface"))?;
    let change = Change {
        mtu: Some(mtu),
        mac: Some(subnet.host_mac()),
        up: true,
        ..Change::default()
    };
    interfaces
        .change(interface.index, &change)
        .map_err(io("start the TAP interface"))?;
    let addresses = [
        Some(IpNet::from(subnet.host())),
        subnet.host_v6().map(IpNet::from),
    ];
    for address in addresses.into_iter().flatten() {
        interfaces
            .add_address(interface.index, address)
            .map_err(io("give the TAP interface its address"))?;
    }
    Ok(Link {
        tap,
        name,
        index: interface.index,
        bridge: None,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        subnet: Some(subnet),
        obstacle: firewall::obstacle().map_err(io("query the firewall"))?,
        _rules: Some(rules),
    })
}

/// Whether a setting of the kernel is on. One that does not exist is off.
fn is_on(path: &str) -> io::Result<bool> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim() != "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a VM gets an IPv6 address. The last setting is that of a new interface.
fn has_ipv6() -> io::Result<bool> {
    Ok(is_on("/proc/sys/net/ipv6/conf/all/forwarding")?
        && !is_on("/proc/sys/net/ipv6/conf/all/disable_ipv6")?
        && !is_on("/proc/sys/net/ipv6/conf/default/disable_ipv6")?)
}

/// The MTU of the interface of the default route: a guest with a larger one would depend on the
/// messages that tell it so, which many networks drop.
fn mtu_towards_others(interfaces: &mut Interfaces, routes: &[Route]) -> io::Result<u32> {
    let default = routes
        .iter()
        .filter(|route| matches!(route.destination, IpNet::V4(net) if net.prefix_len() == 0))
        .min_by_key(|route| route.metric);
    let interface = match default.and_then(|route| route.interface) {
        Some(index) => interfaces.by_index(index)?,
        None => None,
    };
    let mtu = interface.map_or(ETHERNET_MTU, |interface| interface.mtu);
    Ok(mtu.clamp(MTUS.0, MTUS.1))
}
