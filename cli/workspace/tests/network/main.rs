//! Interfaces for VMs on the real kernel, in network namespaces of the tests' own. The far sides are
//! the kernel's too: each is in a namespace, and the frames of a VM's interface are passed on to one
//! in such a namespace, which takes the place of the guest.

#![allow(clippy::unwrap_used)]

mod bridged;
mod lab;
mod leftovers;
mod nat;
mod refused;
mod watch;
