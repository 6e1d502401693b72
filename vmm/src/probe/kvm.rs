//! Tests whether KVM on this host can execute the instructions that a Linux kernel needs.

use std::io;
use std::time::{Duration, Instant};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use crate::boot::layout;
use crate::engine::EngineError;
use crate::engine::kvm::{create_vm, kvm_error, long_mode, map_ram, open, register_ram};

/// The result of the probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmProbe {
    /// A guest ran all instructions.
    Usable {
        /// How long the probe took.
        took: Duration,
    },
    /// There is no `/dev/kvm`.
    Absent,
    /// This user may not open `/dev/kvm`.
    Forbidden,
    /// KVM exists, but cannot run a Linux guest.
    Incapable {
        /// The instruction or operation that failed, and the reason.
        why: String,
    },
}

/// The tested instructions, in order. Each runs in long mode and is followed by a write of its
/// index to [`PROGRESS_PORT`]. An unmodified x86-64 kernel executes all of them before its first
/// process.
const INSTRUCTIONS: [(&str, &[u8]); 5] = [
    // xorps xmm0, xmm0
    ("xorps", &[0x0f, 0x57, 0xc0]),
    // movups [rsp-64], xmm0
    ("movups", &[0x0f, 0x11, 0x44, 0x24, 0xc0]),
    // xor eax,eax; xor edx,edx; xor ebx,ebx; xor ecx,ecx; lock cmpxchg16b [rsp-64]
    (
        "cmpxchg16b",
        &[
            0x31, 0xc0, 0x31, 0xd2, 0x31, 0xdb, 0x31, 0xc9, 0xf0, 0x48, 0x0f, 0xc7, 0x4c, 0x24,
            0xc0,
        ],
    ),
    // fxsave [rsp-1024]; fxrstor [rsp-1024]
    (
        "fxrstor",
        &[
            0x0f, 0xae, 0x84, 0x24, 0x00, 0xfc, 0xff, 0xff, 0x0f, 0xae, 0x8c, 0x24, 0x00, 0xfc,
            0xff, 0xff,
        ],
    ),
    // xor eax,eax; xor ecx,ecx; cpuid
    ("cpuid", &[0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2]),
];

const PROGRESS_PORT: u8 = 0x80;
const CODE: u64 = layout::HIGH_RAM;
const STACK: u64 = layout::HIGH_RAM + 0x8000;
const MEMORY: u64 = 2 << 20;

/// CR0: monitor coprocessor. CR4: the OS supports FXSAVE and SSE exceptions.
const CR0_MP: u64 = 1 << 1;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;

/// Probes KVM by running instructions in a VM. Takes about a millisecond where `KVM_CREATE_VM` does
/// not wait for a grace period of the host kernel (see [`kvm::Prepared`](crate::engine::kvm)), ten
/// or more where it does, and some more for tearing down the VM. Callers should cache the result.
pub fn kvm() -> KvmProbe {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return KvmProbe::Absent,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return KvmProbe::Forbidden;
        }
        // For example ENODEV: the device node exists, but no driver is behind it.
        Err(error) => {
            return KvmProbe::Incapable {
                why: error.to_string(),
            };
        }
        Ok(_) => {}
    }
    let start = Instant::now();
    match run() {
        Ok(None) => KvmProbe::Usable {
            took: start.elapsed(),
        },
        Ok(Some(why)) => KvmProbe::Incapable { why },
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            KvmProbe::Incapable {
                why: cause.map_or(error.to_string(), |cause| format!("{error}: {cause}")),
            }
        }
    }
}

/// The registers of CPUID that name instructions, as KVM lets a guest see them. A guest may have
/// fewer instructions than its host: KVM hides those whose state it cannot switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestCpuid {
    /// ECX of leaf 1.
    pub leaf1_ecx: u32,
    /// EBX of leaf 7, subleaf 0.
    pub leaf7_ebx: u32,
    /// ECX of leaf 0x8000_0001.
    pub extended1_ecx: u32,
}

/// What `KVM_GET_SUPPORTED_CPUID` says of a guest's instructions; `None` without KVM.
pub fn kvm_guest_cpuid() -> Option<GuestCpuid> {
    let cpuid = open()
        .ok()?
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .ok()?;
    let entry = |leaf| {
        let mut entries = cpuid.as_slice().iter();
        entries.find(|entry| (entry.function, entry.index) == (leaf, 0))
    };
    Some(GuestCpuid {
        leaf1_ecx: entry(1).map_or(0, |entry| entry.ecx),
        leaf7_ebx: entry(7).map_or(0, |entry| entry.ebx),
        extended1_ecx: entry(0x8000_0001).map_or(0, |entry| entry.ecx),
    })
}

/// `None` when all instructions ran, otherwise the one that failed, and the reason.
fn run() -> Result<Option<String>, EngineError> {
    let kvm = open()?;
    let vm = create_vm(&kvm)?;
    let memory = map_ram(MEMORY)?;
    register_ram(&vm, &memory)?;
    let mut code = Vec::new();
    for (number, (_, instruction)) in INSTRUCTIONS.iter().enumerate() {
        code.extend_from_slice(instruction);
        // mov al, number; out PROGRESS_PORT, al
        code.extend([0xb0, number as u8, 0xe6, PROGRESS_PORT]);
    }
    memory
        .write_slice(&code, GuestAddress(CODE))
        .map_err(|_| EngineError::Boot(crate::boot::BootError::Memory { address: CODE }))?;
    let mut vcpu = vm.create_vcpu(0).map_err(kvm_error("creating a vCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm_error("reading the supported CPUID"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(kvm_error("setting a vCPU's CPUID"))?;
    let mut sregs = vcpu
        .get_sregs()
        .map_err(kvm_error("reading a vCPU's registers"))?;
    long_mode(&memory)?.apply(&mut sregs);
    sregs.cr0 |= CR0_MP;
    sregs.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT;
    vcpu.set_sregs(&sregs)
        .map_err(kvm_error("setting a vCPU's segments"))?;
    let regs = kvm_bindings::kvm_regs {
        rip: CODE,
        rsp: STACK,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs)
        .map_err(kvm_error("setting a vCPU's registers"))?;
    Ok(step_through(&mut vcpu))
}

fn step_through(vcpu: &mut VcpuFd) -> Option<String> {
    for (number, (name, _)) in INSTRUCTIONS.iter().enumerate() {
        let failure = loop {
            match vcpu.run() {
                Ok(VcpuExit::IoOut(port, &[done]))
                    if port == u16::from(PROGRESS_PORT) && done == number as u8 =>
                {
                    break None;
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Ok(VcpuExit::InternalError) => {
                    break Some("KVM emulates it and does not support it".into());
                }
                Ok(other) => break Some(format!("exit {other:?}")),
                Err(error) => break Some(error.to_string()),
            }
        };
        if let Some(how) = failure {
            return Some(format!(
                "the instruction {name} does not run in a guest: {how}"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lab tests that the probe succeeds on real KVM, where a Linux guest runs. This test only
    /// requires a stable answer in a short time.
    #[test]
    fn the_probe_answers_within_a_second() {
        let start = Instant::now();
        let first = kvm();
        assert!(start.elapsed() < Duration::from_secs(1), "{first:?}");
        let same = |probe: &KvmProbe| match probe {
            KvmProbe::Usable { .. } => "usable".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(same(&first), same(&kvm()));
    }

    #[test]
    fn an_emulating_kvm_fails_at_its_first_sse_instruction() {
        if let KvmProbe::Incapable { why } = kvm() {
            assert_eq!(
                why,
                "the instruction xorps does not run in a guest: KVM emulates it and does not support it"
            );
        }
    }
}
