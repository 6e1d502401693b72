//! Interfaces of the host for VMs: network modes `nat` and `bridged`.
//!
//! | module | contents |
//! |---|---|
//! | [`nat`] | mode `nat`: a TAP interface with addresses of its own, behind the host's addresses |
//! | [`bridge`] | mode `bridged`: a TAP interface on a bridge of the host |
//! | `link` | what both return; nothing but descriptors, so the kernel cleans up |
//! | [`pool`] | which addresses a VM gets |
//! | `watch` | what becomes of the interface while the VM runs |
//! | `firewall` | whether a firewall of the host is in the way |
//! | `rules` | the nftables rules of one interface |
//! | `interface` | interfaces, addresses and routes of the kernel (rtnetlink) |
//! | `netlink` | netlink sockets |
//!
//! Both need `CAP_NET_ADMIN`, and no program of the host. All that is made belongs to descriptors of
//! this process: after `kill -9` nothing is left, and nothing is ever repaired.

pub mod bridge;
mod error;
mod firewall;
mod interface;
mod link;
pub mod nat;
mod netlink;
pub mod pool;
mod rules;
mod watch;

pub use self::error::InterfaceError;
pub use self::firewall::Obstacle;
pub use self::link::Link;
pub use self::watch::{Lost, Watch};
