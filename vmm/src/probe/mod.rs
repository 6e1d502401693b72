//! Detects what this host can run, for `--engine auto` and `microagent doctor`.
//!
//! Detection is by test, not by name or version. [`kvm`] runs instructions in a VM: some hosts have
//! a `/dev/kvm` that answers every ioctl but emulates its guests and fails at the first SSE
//! instruction. [`qemu`] queries the program for its machines and devices. [`vm_creation_time`]
//! measures what a host makes each VM wait. [`host_identity`] says where a saved VM can go on.

mod host;
mod kvm;
mod vm_creation;

pub use crate::engine::qemu::{
    INSTALL_QEMU, QemuInfo as QemuProbe, describe as qemu, locate as find_qemu,
};
pub use host::identity as host_identity;
pub use kvm::{GuestCpuid, KvmProbe, kvm, kvm_guest_cpuid};
pub use vm_creation::{Cgroup2, VmCreationFacts, vm_creation_time};
