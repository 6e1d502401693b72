//! Virtual machines without the command line: bare guests on this host's `/dev/kvm`, a stock kernel
//! on real KVM in the lab, and a stock kernel in QEMU.

#![allow(clippy::unwrap_used)]

mod guest;
mod kvm_bare;
mod kvm_disks;
mod kvm_linux;
mod kvm_snapshot;
mod kvm_streams;
mod net;
mod qemu;
mod supervisor;
