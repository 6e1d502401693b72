//! The network: the loopback, the interface that the host describes, the resolver, and what container
//! engines allow every user.

mod netlink;
mod resolver;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use microagent_proto::agent::{Address, Network, UNNAMED_MAC};

use self::netlink::Netlink;
use crate::modprobe;
use crate::uevent::Uevents;

/// The loopback's index: the kernel creates it first in every network namespace.
const LOOPBACK: u32 = 1;

/// Where the kernel lists its interfaces.
const INTERFACES: &str = "/sys/class/net";

/// The driver of virtio interfaces, for kernels that have it as a module.
const DRIVER: &str = "virtio_net";

/// How long an interface may take to appear once its driver is loaded.
const INTERFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of the resolver, on the loopback. It is not of 127.0.0.0/8, because container engines
/// in the guest pass on the servers of `/etc/resolv.conf` except those.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// Docker's defaults: every user may bind ports below 1024 and send ICMP echo requests.
const SYSCTLS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// Why the interface could not be configured.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The interfaces cannot be listed.
    #[error("cannot list the network interfaces")]
    List(#[source] io::Error),
    /// There is none with this address.
    #[error("the network interface did not appear: the kernel has no driver {DRIVER}")]
    Missing,
    /// The kernel refuses a setting.
    #[error("cannot {operation}")]
    Setting {
        /// What was attempted.
        operation: String,
        /// The error from the kernel.
        source: io::Error,
    },
}

fn setting(operation: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let operation = operation.into();
    move |source| NetworkError::Setting { operation, source }
}

/// Sets Docker's defaults for unprivileged users.
pub fn allow_unprivileged() -> io::Result<()> {
    for (path, value) in SYSCTLS {
        fs::write(path, value)?;
    }
    Ok(())
}

/// Brings the loopback interface up; the kernel then assigns 127.0.0.1 and ::1.
pub fn bring_loopback_up() -> io::Result<()> {
    Netlink::open()?.link_up(LOOPBACK, None)
}

/// Configures the interface that `network` describes, and starts the resolver.
pub fn configure(network: &Network, uevents: &Uevents) -> Result<(), NetworkError> {
    let netlink = Netlink::open().map_err(setting("open a netlink socket"))?;
    let index = find(network.mac, &netlink, uevents)?;
    set_up(index, network, &netlink)?;
    if network.resolver {
        start_resolver(&netlink)?;
    }
    Ok(())
}

/// Gives the interface that `former` describes other addresses.
pub fn change(former: &Network, network: &Network) -> Result<(), NetworkError> {
    let netlink = Netlink::open().map_err(setting("open a netlink socket"))?;
    let found = find_in(Path::new(INTERFACES), former.mac).map_err(NetworkError::List)?;
    let index = found.ok_or(NetworkError::Missing)?;
    // The kernel forgets its routes, and what it has learnt of its neighbours.
    netlink
        .link_down(index)
        .map_err(setting("take the network interface down"))?;
    netlink
        .set_mac(index, network.mac)
        .map_err(setting("set the address of the network interface"))?;
    for own in &former.addresses {
        // Those of IPv6 are gone already.
        let _ = netlink.remove_address(index, own.address, own.prefix);
    }
    set_up(index, network, &netlink)?;
    if network.resolver && !former.resolver {
        start_resolver(&netlink)?;
    }
    Ok(())
}

/// Brings the interface up, with its addresses and routes.
fn set_up(index: u32, network: &Network, netlink: &Netlink) -> Result<(), NetworkError> {
    netlink
        .link_up(index, Some(network.mtu))
        .map_err(setting("bring the network interface up"))?;
    for &Address {
        address,
        prefix,
        gateway,
    } in &network.addresses
    {
        let added = netlink.add_address(index, address, prefix);
        match added {
            // A kernel without IPv6 has IPv4 all the same.
            Err(_) if address.is_ipv6() && !has_ipv6() => continue,
            added => added.map_err(setting(format!("add the address {address}/{prefix}")))?,
        }
        if let Some(gateway) = gateway {
            netlink
                .add_default_route(index, gateway)
                .map_err(setting(format!("add a route through {gateway}")))?;
        }
    }
    Ok(())
}

fn start_resolver(netlink: &Netlink) -> Result<(), NetworkError> {
    netlink
        .add_address(LOOPBACK, IpAddr::V4(RESOLVER), 32)
        .map_err(setting("add the address of the resolver"))?;
    resolver::start(RESOLVER).map_err(setting("start the resolver"))
}

/// The content of `/etc/resolv.conf`.
pub fn resolv_conf(network: &Network) -> String {
    let mut text = String::new();
    if network.resolver {
        text = format!("nameserver {RESOLVER}\n");
        if !network.search.is_empty() {
            text += &format!("search {}\n", network.search.join(" "));
        }
    }
    text
}

fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// The index of the interface with this hardware address, which one without a name gets. Loads its driver
/// if there is none.
fn find(mac: [u8; 6], netlink: &Netlink, uevents: &Uevents) -> Result<u32, NetworkError> {
    let directory = Path::new(INTERFACES);
    if let Some(index) = find_in(directory, mac).map_err(NetworkError::List)? {
        return Ok(index);
    }
    if let Some(index) = find_in(directory, UNNAMED_MAC).map_err(NetworkError::List)? {
        netlink
            .set_mac(index, mac)
            .map_err(setting("set the address of the network interface"))?;
        return Ok(index);
    }
    // The interface is missing if it cannot be loaded.
    let _ = modprobe::load(DRIVER);
    uevents
        .wait_for(INTERFACE_TIMEOUT, || find_in(directory, mac))
        .map_err(NetworkError::List)?
        .ok_or(NetworkError::Missing)
}

fn find_in(directory: &Path, mac: [u8; 6]) -> io::Result<Option<u32>> {
    let wanted = mac.map(|octet| format!("{octet:02x}")).join(":");
    for entry in fs::read_dir(directory)? {
        let interface = entry?.path();
        // One that vanishes meanwhile is not ours.
        let read = |name| fs::read_to_string(interface.join(name)).unwrap_or_default();
        if read("address").trim() == wanted {
            return Ok(read("ifindex").trim().parse().ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_up_after_the_request() {
        // On a machine that runs tests the loopback is already up; the kernel must accept the
        // request.
        match bring_loopback_up() {
            Ok(()) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(1), "{error}"),
        }
        let flags = fs::read_to_string("/sys/class/net/lo/flags").unwrap();
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
        assert_eq!(flags & 1, 1);
    }

    #[test]
    fn an_interface_is_found_by_its_address() {
        let directory = tempfile::tempdir().unwrap();
        for (name, address, index) in [
            ("lo", "00:00:00:00:00:00", "1"),
            ("eth7", "02:00:00:00:00:0a", "7"),
        ] {
            let interface = directory.path().join(name);
            fs::create_dir(&interface).unwrap();
            fs::write(interface.join("address"), format!("{address}\n")).unwrap();
            fs::write(interface.join("ifindex"), format!("{index}\n")).unwrap();
        }
        let found = |last| find_in(directory.path(), [2, 0, 0, 0, 0, last]).unwrap();
        assert_eq!(found(10), Some(7));
        assert_eq!(found(11), None);
    }

    #[test]
    fn the_resolver_is_named_if_there_is_one() {
        let mut network = Network {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            addresses: Vec::new(),
            resolver: true,
            search: vec!["a.example".into(), "b.example".into()],
        };
        assert_eq!(
            resolv_conf(&network),
            "nameserver 169.254.53.53\nsearch a.example b.example\n"
        );
        network.resolver = false;
        assert_eq!(resolv_conf(&network), "");
    }
}
