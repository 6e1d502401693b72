//! Why a network interface could not be made.

use std::io;

use microagent_pipeline::ErrorKind;
use microagent_vmm::virtio::net::TapError;

use crate::shell;

/// A network interface could not be made. What had been made is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// The process has no `CAP_NET_ADMIN`, or may not open `/dev/net/tun`.
    #[error("no permission to create a network interface")]
    Permission,
    /// The kernel cannot make TAP interfaces.
    #[error("cannot open /dev/net/tun")]
    Tun(#[source] io::Error),
    /// The host does not forward IPv4, so a VM behind its addresses would reach the host only.
    #[error("network mode nat needs IPv4 forwarding, which is off on this host")]
    Forwarding,
    /// The kernel refused the rules of an interface.
    #[error("cannot install nftables rules for network mode nat")]
    Rules(#[source] io::Error),
    /// All addresses that VMs may get are in use.
    #[error("no addresses left for network mode nat: the host uses, or has routes to, all of {0}")]
    Addresses(String),
    /// The interface to attach to does not exist.
    #[error("network interface {0:?} does not exist")]
    NoInterface(String),
    /// The interface to attach to is something else than a bridge.
    #[error("network interface {0:?} is not a bridge")]
    NotABridge(String),
    /// The bridge does not forward anything.
    #[error("bridge {0:?} is down")]
    BridgeDown(String),
    /// Not the name of an interface.
    #[error("{0:?} is not the name of a network interface: it has 1 to 15 bytes")]
    Name(String),
    /// A TAP interface could not be made.
    #[error(transparent)]
    Tap(TapError),
    /// A request to the kernel failed.
    #[error("cannot {operation}")]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl InterfaceError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            InterfaceError::Permission => ErrorKind::Permission,
            InterfaceError::NoInterface(_) => ErrorKind::NotFound,
            InterfaceError::NotABridge(_) | InterfaceError::Name(_) => ErrorKind::Usage,
            InterfaceError::Addresses(_) => ErrorKind::Conflict,
            InterfaceError::Tun(_)
            | InterfaceError::Forwarding
            | InterfaceError::Rules(_)
            | InterfaceError::BridgeDown(_)
            | InterfaceError::Tap(_)
            | InterfaceError::Io { .. } => ErrorKind::Host,
        }
    }

    /// What the user can do about it, if anything.
    pub fn remediation(&self) -> Option<String> {
        let text = match self {
            InterfaceError::Permission => {
                "run it as root or with CAP_NET_ADMIN, or use --network user"
            }
            InterfaceError::Tun(_) => "load its module: modprobe tun; or use --network user",
            InterfaceError::Forwarding => {
                "switch it on: sysctl -w net.ipv4.ip_forward=1; or use --network user"
            }
            InterfaceError::Rules(_) => {
                "use Linux 5.12 or newer with the modules nf_tables, nft_chain_nat, nft_ct and \
                 nft_masq; or use --network user"
            }
            InterfaceError::Addresses(_) => {
                "end other VMs or remove a route to one of the ranges, or use --network user"
            }
            InterfaceError::NoInterface(_)
            | InterfaceError::NotABridge(_)
            | InterfaceError::Name(_) => "list the bridges with: ip link show type bridge",
            InterfaceError::BridgeDown(name) => {
                return Some(format!("start it: ip link set {} up", shell::word(name)));
            }
            InterfaceError::Tap(_) | InterfaceError::Io { .. } => return None,
        };
        Some(text.to_owned())
    }

    /// An error of an operation, which tells a lack of permission from others.
    pub(super) fn io(operation: &'static str) -> impl Fn(io::Error) -> InterfaceError {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => InterfaceError::Permission,
            _ => InterfaceError::Io { operation, source },
        }
    }
}

impl From<TapError> for InterfaceError {
    fn from(error: TapError) -> InterfaceError {
        match error {
            TapError::Open(source) | TapError::Io { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                InterfaceError::Permission
            }
            TapError::Open(source) => InterfaceError::Tun(source),
            other => InterfaceError::Tap(other),
        }
    }
}
