//! The CPUID of a vCPU: the host's features that KVM supports, with a topology of one package and
//! one thread per core.
//!
//! Host-only features are hidden: performance counters, power management, cache allocation,
//! processor trace, enclaves, and virtualization (nested guests are not supported, and nested
//! virtualization would add much to the attack surface of the host's KVM). The TSC frequency is not
//! reported here: guests read it from kvmclock, which KVM's own leaves announce. Sources: Intel SDM
//! volume 2A (CPUID), AMD APM volume 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 ECX: MONITOR, VMX, SMX, EIST, TM2, PDCM, DCA.
const HOST_1_ECX: u32 = 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15 | 1 << 18;
/// Leaf 1 EDX: DS, ACPI, TM, PBE.
const HOST_1_EDX: u32 = 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31;
/// Leaf 7 EBX: SGX, PQM, PQE, processor trace.
const HOST_7_EBX: u32 = 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25;
/// Leaf 6 EAX: the APIC timer runs in deep sleep states. All else in this leaf is hidden.
const ARAT: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX: SVM.
const SVM: u32 = 1 << 2;
/// Leaf 1 ECX: x2APIC, TSC deadline timer, hypervisor present.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX on AMD: the core count is that of leaf 0x8000_0008.
const CMP_LEGACY: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;

/// The CPUID of vCPU `index` of `count`, derived from what KVM supports on this host.
pub(super) fn for_vcpu(supported: &CpuId, index: u32, count: u32) -> CpuId {
    let mut cpuid = supported.clone();
    // The number of APIC id bits that number the cores.
    let core_bits = count.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xff00 | index << 24 | count.min(255) << 16;
                entry.ecx = entry.ecx & !HOST_1_ECX | X2APIC | TSC_DEADLINE | HYPERVISOR;
                entry.edx = entry.edx & !(HTT | HOST_1_EDX) | if count > 1 { HTT } else { 0 };
            }
            0x4 => caches(entry, core_bits),
            0x6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & ARAT, 0, 0, 0),
            0x7 if entry.index == 0 => entry.ebx &= !HOST_7_EBX,
            // MONITOR, performance counters, cache monitoring and allocation, SGX, processor trace,
            // SVM.
            0x5 | 0xa | 0xf | 0x10 | 0x12 | 0x14 | 0x8000_000a => {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            0xb | 0x1f => topology(entry, index, count, core_bits),
            0x8000_0001 if count > 1 => entry.ecx |= CMP_LEGACY,
            0x8000_0001 => entry.ecx &= !CMP_LEGACY,
            0x8000_0008 => entry.ecx = core_bits << 12 | (count - 1).min(0xff),
            // Compute unit and node ids: one thread per core, one node.
            0x8000_001e => {
                (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xff, 0);
            }
            _ => {}
        }
        if entry.function == 0x8000_0001 {
            entry.ecx &= !(TOPOLOGY_EXTENSIONS | SVM);
        }
    }
    cpuid
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

/// Leaves 0xb and 0x1f: the thread level (one thread), then the core level.
fn topology(entry: &mut kvm_cpuid_entry2, index: u32, count: u32, core_bits: u32) {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    entry.edx = index;
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, THREADS),
        1 => (core_bits, count, 1 | CORES),
        other => (0, 0, other & 0xff),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: 0xffff_ffff,
            ..Default::default()
        }
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == function && entry.index == index)
            .unwrap()
    }

    #[test]
    fn every_vcpu_has_its_own_apic_id_in_every_leaf() {
        let supported = CpuId::from_entries(&[
            entry(1, 0),
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0x8000_0008, 0),
        ])
        .unwrap();
        for index in 0..3 {
            let cpuid = for_vcpu(&supported, index, 3);
            assert_eq!(leaf(&cpuid, 1, 0).ebx >> 24, index);
            assert_eq!(leaf(&cpuid, 1, 0).ebx >> 16 & 0xff, 3);
            assert_eq!(leaf(&cpuid, 0xb, 0).edx, index);
            let cores = leaf(&cpuid, 0xb, 1);
            assert_eq!(
                (cores.eax, cores.ebx, cores.ecx, cores.edx),
                (2, 3, 0x201, index)
            );
            assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 2 << 12 | 2);
        }
    }

    #[test]
    fn host_only_features_are_hidden() {
        let all = |function| kvm_cpuid_entry2 {
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            eax: u32::MAX,
            ..entry(function, 0)
        };
        let hidden = [0x5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x8000_000a];
        let shown = [0x1, 0x6, 0x7, 0x8000_0001];
        let leaves: Vec<_> = hidden.iter().chain(&shown).map(|&leaf| all(leaf)).collect();
        let cpuid = for_vcpu(&CpuId::from_entries(&leaves).unwrap(), 0, 1);
        for function in hidden {
            let leaf = leaf(&cpuid, function, 0);
            assert_eq!((leaf.eax, leaf.ebx, leaf.ecx, leaf.edx), (0, 0, 0, 0));
        }
        assert_eq!(leaf(&cpuid, 0x6, 0).eax, ARAT);
        assert_eq!(leaf(&cpuid, 0x1, 0).ecx & HOST_1_ECX, 0);
        assert_eq!(leaf(&cpuid, 0x1, 0).edx & HOST_1_EDX, 0);
        assert_eq!(leaf(&cpuid, 0x7, 0).ebx, !HOST_7_EBX);
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx & SVM, 0);
    }

    #[test]
    fn one_vcpu_is_not_hyper_threaded() {
        let mut leaf_1 = entry(1, 0);
        leaf_1.edx = u32::MAX;
        let cpuid = for_vcpu(&CpuId::from_entries(&[leaf_1]).unwrap(), 0, 1);
        assert_eq!(leaf(&cpuid, 1, 0).edx & HTT, 0);
        assert_eq!(leaf(&cpuid, 1, 0).ecx & HYPERVISOR, HYPERVISOR);
    }
}
