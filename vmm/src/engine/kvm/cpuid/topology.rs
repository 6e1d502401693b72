//! The leaves that enumerate the levels of the topology: 0xb and 0x1f (Intel SDM volume 2A, also on
//! AMD), and 0x8000_0026 (AMD APM volume 3 section E.4.24).
//!
//! KVM returns only subleaf 0 of the first two, filled with zeros (since Linux 6.2), or the host's
//! values, from which a guest would conclude that each vCPU is a package. So they are built here.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Level types in ECX bits 15:8 of leaves 0xb and 0x1f.
const THREAD: u32 = 1;
const CORE: u32 = 2;

/// Level types of leaf 0x8000_0026. There, the first level numbers the threads of a core.
const AMD_CORE: u32 = 1;
const AMD_COMPLEX: u32 = 2;
const AMD_DIE: u32 = 3;
const AMD_SOCKET: u32 = 4;

/// A level: its type, the number of APIC id bits up to and including it, and the number of vCPUs in
/// one unit of it.
type Level = (u32, u32, u32);

/// `supported` with each topology leaf that occurs in it replaced by that of vCPU `index` of
/// `count`, whose cores are numbered by the lowest `core_bits` bits of the APIC id.
pub(super) fn replace_leaves(
    supported: &[kvm_cpuid_entry2],
    index: u32,
    count: u32,
    core_bits: u32,
) -> Vec<kvm_cpuid_entry2> {
    let levels = [(THREAD, 0, 1), (CORE, core_bits, count)];
    let amd_levels = [
        (AMD_CORE, 0, 1),
        (AMD_COMPLEX, core_bits, count),
        (AMD_DIE, core_bits, count),
        (AMD_SOCKET, core_bits, count),
    ];
    let mut entries = supported.to_vec();
    for (function, levels) in [
        (0xb, &levels[..]),
        (0x1f, &levels[..]),
        (0x8000_0026, &amd_levels[..]),
    ] {
        let before = entries.len();
        entries.retain(|entry| entry.function != function);
        if entries.len() < before {
            entries.extend(leaf(function, levels, index));
        }
    }
    entries
}

/// The subleaves of one leaf: one for each level, and a last one without type.
fn leaf(function: u32, levels: &[Level], index: u32) -> impl Iterator<Item = kvm_cpuid_entry2> {
    (0..).zip(levels.iter().copied().chain([(0, 0, 0)])).map(
        move |(subleaf, (kind, bits, cpus))| kvm_cpuid_entry2 {
            function,
            index: subleaf,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: bits,
            ebx: cpus,
            ecx: kind << 8 | subleaf,
            edx: index,
            ..Default::default()
        },
    )
}
