//! A VM's interface on the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::firewall::Obstacle;
use super::pool::Subnet;

/// A TAP interface that was made for one VM, and what belongs to it.
///
/// It consists of descriptors only: the kernel deletes the interface, with its addresses and routes,
/// when the last duplicate of the TAP's descriptor is closed, and the rules when that of the netlink
/// socket is. So nothing is left whatever becomes of the processes, and nothing has to be repaired.
#[derive(Debug)]
pub struct Link {
    pub(super) tap: OwnedFd,
    pub(super) name: String,
    pub(super) index: i32,
    /// The index and the name of the bridge that it is a port of.
    pub(super) bridge: Option<(i32, String)>,
    pub(super) mtu: u16,
    pub(super) subnet: Option<Subnet>,
    pub(super) obstacle: Option<Obstacle>,
    /// The owner of the rules.
    pub(super) _rules: Option<OwnedFd>,
}

impl Link {
    /// The descriptor for [`Tap::new`](microagent_vmm::virtio::net::Tap::new). To use it takes no
    /// privileges, so a duplicate can be sent to a process that has none.
    pub fn tap(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// The name of the interface on the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The MTU for the guest.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What probably keeps the VM from reaching anything but the host. A reason to warn, not to fail:
    /// a rule that is not about the interfaces of VMs may accept their packets.
    pub fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref()
    }

    /// The addresses, if the VM has a network of its own. On a bridge they are somebody else's
    /// business.
    pub fn subnet(&self) -> Option<&Subnet> {
        self.subnet.as_ref()
    }
}
