//! Network mode `bridged`: a TAP interface is a port of an existing bridge of the host. The guest is
//! in the bridge's network like any other host: its addresses, and who may reach it, are the matter
//! of that network.

use super::error::InterfaceError;
use super::interface::{Change, Interfaces};
use super::link::Link;
use microagent_vmm::virtio::net::Tap;

/// The kernel puts the lowest free number in place of `%d`.
const NAME: &str = "mabr%d";

/// `IFNAMSIZ`, with a NUL byte.
const NAME_SIZE: usize = 16;

/// The largest MTU of a TAP interface of Linux: that of any interface without its Ethernet header.
const MAX_MTU: u32 = 65_521;

/// Makes a TAP interface that is a port of the bridge `interface`.
///
/// # Errors
/// [`InterfaceError::NoInterface`], [`InterfaceError::NotABridge`] and [`InterfaceError::BridgeDown`];
/// [`InterfaceError::Permission`] without `CAP_NET_ADMIN`; others of [`InterfaceError`].
pub fn open(interface: &str) -> Result<Link, InterfaceError> {
    if interface.is_empty() || interface.len() >= NAME_SIZE || interface.contains('\0') {
        return Err(InterfaceError::Name(interface.to_owned()));
    }
    let io = InterfaceError::io;
    let mut interfaces = Interfaces::open().map_err(io("query network interfaces"))?;
    let bridge = interfaces
        .by_name(interface)
        .map_err(io("query the bridge"))?
        .ok_or_else(|| InterfaceError::NoInterface(interface.to_owned()))?;
    if bridge.kind != "bridge" {
        return Err(InterfaceError::NotABridge(interface.to_owned()));
    }
    if !bridge.up {
        return Err(InterfaceError::BridgeDown(interface.to_owned()));
    }
    let (tap, name) = Tap::create(NAME)?;
    let port = interfaces
        .by_name(&name)
        .and_then(|port| port.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
        .map_err(io("query the TAP interface"))?;
    let mtu = bridge.mtu.min(MAX_MTU);
    let prepared = Change {
        mtu: Some(mtu),
        mac: Some(host_mac(bridge.index)),
        ..Change::default()
    };
    let attached = Change {
        bridge: Some(bridge.index),
        ..Change::default()
    };
    let up = Change {
        up: true,
        ..Change::default()
    };
    // In this order: a bridge without a fixed MAC address takes the lowest of its ports, and one
    // without a fixed MTU the lowest as well. The host has its own addresses on the bridge.
    interfaces
        .change(port.index, &prepared)
        .and_then(|()| interfaces.without_ipv6(port.index))
        .and_then(|()| interfaces.change(port.index, &attached))
        .and_then(|()| interfaces.change(port.index, &up))
        .map_err(io("add a TAP interface to the bridge"))?;
    Ok(Link {
        tap,
        name,
        index: port.index,
        bridge: Some((bridge.index, interface.to_owned())),
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
        subnet: None,
        obstacle: None,
        _rules: None,
    })
}

/// An address higher than those that hardware has, and the same for all VMs on a bridge, which Linux
/// permits: while VMs are its only ports, the bridge has this address whichever of them end, so that
/// its neighbours do not send to one that is gone.
fn host_mac(index: i32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0xfe, 0x6d, a, b, c, d]
}
