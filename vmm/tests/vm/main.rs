//! Virtual machines, below the command line: bare guests on this host's own `/dev/kvm`, a stock
//! kernel on real KVM in the lab, and a stock kernel under QEMU.

#![allow(clippy::unwrap_used)]

mod guest;
mod kvm_bare;
mod kvm_disks;
mod kvm_linux;
mod kvm_streams;
mod net;
mod qemu;
