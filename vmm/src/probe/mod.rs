//! What this host can run: the facts behind `--engine auto` and `microagent doctor`.
//!
//! Nothing is judged by a name. [`kvm`] runs real instructions in a real VM: hosts exist whose
//! `/dev/kvm` answers every ioctl but emulates its guests and stops at the first SSE instruction.
//! [`qemu`] asks the program itself what it has.

mod kvm;

pub use crate::engine::qemu::{QemuInfo as QemuProbe, describe as qemu, locate as find_qemu};
pub use kvm::{KvmProbe, kvm};
