//! The CPUID of a vCPU: the host's features that KVM supports, with a topology of one package and
//! one thread per core ([`topology`]).
//!
//! Host-only features are hidden: performance counters and branch records, power management, cache
//! allocation, processor trace, enclaves, and virtualization (nested guests are not supported, and
//! nested virtualization would add much to the attack surface of the host's KVM). The TSC frequency
//! is not reported here: guests read it from kvmclock, which KVM's own leaves announce. Sources:
//! Intel SDM volume 2A (CPUID), AMD APM volume 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst.

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
mod topology;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 ECX: MONITOR, VMX, SMX, EIST, TM2, PDCM, DCA.
const HOST_1_ECX: u32 = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15 | 1 << 18;
/// Leaf 1 EDX: DS, ACPI, TM, PBE.
const HOST_1_EDX: u32 = 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31;
/// Leaf 7 EBX: SGX, PQM, PQE, processor trace.
const HOST_7_EBX: u32 = 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25;
/// Leaf 7 EDX: architectural last branch records.
const HOST_7_EDX: u32 = 1 << 19;
/// Leaf 7 subleaf 1 EAX: the extended performance counters of leaf 0x23.
const HOST_7_1_EAX: u32 = 1 << 8;
/// Leaf 6 EAX: the APIC timer runs in deep sleep states. All else in this leaf is hidden.
const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX: SVM, instruction based sampling, performance counters of core, northbridge
/// and last-level cache.
const HOST_8000_0001_ECX: u32 = 1 << 2 | 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;
/// Leaf 1 ECX: x2APIC, TSC deadline timer, hypervisor present.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX on AMD: the core count is that of leaf 0x8000_0008.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;

/// The vendors whose processors differ here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vendor {
    /// `GenuineIntel`.
    Intel,
    /// `AuthenticAMD`, and `HygonGenuine`, which are AMD's.
    Amd,
    /// Any other.
    Other,
}

impl Vendor {
    /// The vendor in leaf 0.
    pub(super) fn of(supported: &CpuId) -> Vendor {
        let leaf = supported
            .as_slice()
            .iter()
            .find(|entry| entry.function == 0);
        let Some(leaf) = leaf else {
            return Vendor::Other;
        };
        let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
        match name.as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

/// The CPUID of vCPU `index` of `count`, derived from what KVM supports on this host.
pub(super) fn for_vcpu(
    supported: &CpuId,
    index: u32,
    count: u32,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let amd = Vendor::of(supported) == Vendor::Amd;
    // The number of APIC id bits that number the cores.
    let core_bits = count.next_power_of_two().trailing_zeros();
    let mut entries = topology::replace_leaves(supported.as_slice(), index, count, core_bits);
    for entry in &mut entries {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xff00 | index << 24 | count.min(255) << 16;
                entry.ecx = entry.ecx & !HOST_1_ECX | X2APIC | TSC_DEADLINE | HYPERVISOR;
                entry.edx = entry.edx & !(HTT | HOST_1_EDX) | if count > 1 { HTT } else { 0 };
            }
            0x4 => caches(entry, core_bits),
            0x6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & ARAT, 0, 0, 0),
            0x7 if entry.index == 0 => {
                entry.ebx &= !HOST_7_EBX;
                entry.edx &= !HOST_7_EDX;
            }
            0x7 if entry.index == 1 => entry.eax &= !HOST_7_1_EAX,
            // MONITOR, performance counters, cache monitoring and allocation, SGX, processor trace,
            // branch records, SVM, instruction based sampling.
            0x5 | 0xa | 0xf | 0x10 | 0x12 | 0x14 | 0x1c | 0x23 | 0x8000_000a | 0x8000_001b
            | 0x8000_0022 => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            0x8000_0001 => {
                entry.ecx &= !(HOST_8000_0001_ECX | TOPOLOGY_EXTENSIONS | CMP_LEGACY);
                if amd && count > 1 {
                    entry.ecx |= CMP_LEGACY;
                }
            }
            0x8000_0008 if amd => entry.ecx = core_bits << 12 | (count - 1).min(0xff),
            // Compute unit and node ids: one thread per core, one node.
            0x8000_001e => {
                (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xff, 0);
            }
            _ => {}
        }
    }
    CpuId::from_entries(&entries)
}

/// Leaf 4: the number of logical processors that share each cache, and of cores in the package.
fn caches(entry: &mut kvm_cpuid_entry2, core_bits: u32) {
    let (kind, level) = (entry.eax & 0x1f, entry.eax >> 5 & 0x7);
    if kind == 0 {
        return;
    }
    let sharing = if level >= 3 { (1 << core_bits) - 1 } else { 0 };
    let cores = (1u32 << core_bits) - 1;
    entry.eax = entry.eax & 0x3fff | sharing << 14 | cores.min(63) << 26;
}
