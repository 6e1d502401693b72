//! What a guest concludes from the CPUID of its vCPUs, on hosts of both vendors.

use super::*;

fn find(cpuid: &CpuId, function: u32, index: u32) -> Option<[u32; 4]> {
    let entries = cpuid.as_slice().iter();
    let mut entries = entries.filter(|entry| entry.function == function && entry.index == index);
    let entry = entries.next()?;
    assert!(entries.next().is_none(), "{function:x} {index} twice");
    Some([entry.eax, entry.ebx, entry.ecx, entry.edx])
}

fn leaf(cpuid: &CpuId, function: u32, index: u32) -> [u32; 4] {
    find(cpuid, function, index).unwrap_or_else(|| panic!("no {function:x} {index}"))
}

fn vcpus(supported: &CpuId, count: u32) -> Vec<CpuId> {
    (0..count)
        .map(|index| for_vcpu(supported, index, count).unwrap())
        .collect()
}

/// The package of a vCPU and the number of levels, from a leaf that enumerates levels, as Linux
/// reads it (arch/x86/kernel/cpu/topology_ext.c).
fn package(cpuid: &CpuId, function: u32) -> (u32, u32) {
    let mut shift = 0;
    for level in 0.. {
        let [eax, ebx, ecx, edx] = leaf(cpuid, function, level);
        assert_eq!(ecx & 0xff, level);
        if ecx >> 8 == 0 {
            return (edx >> shift, level);
        }
        assert!(ebx > 0 && eax >= shift, "{function:x} {level}");
        shift = eax;
    }
    unreachable!()
}

#[test]
fn the_vendor_is_recognised() {
    assert_eq!(Vendor::of(&recorded::intel()), Vendor::Intel);
    assert_eq!(Vendor::of(&recorded::amd()), Vendor::Amd);
    assert_eq!(
        Vendor::of(&CpuId::from_entries(&[]).unwrap()),
        Vendor::Other
    );
}

#[test]
fn all_vcpus_are_cores_of_one_package_on_both_vendors() {
    for (supported, leaves) in [
        (recorded::intel(), &[(0xb, 2), (0x1f, 2)][..]),
        (recorded::amd(), &[(0xb, 2), (0x8000_0026, 4)][..]),
    ] {
        for count in [1, 2, 3, 4, 64] {
            for (index, cpuid) in (0..).zip(vcpus(&supported, count)) {
                assert_eq!(leaf(&cpuid, 1, 0)[1] >> 24, index);
                assert_eq!(leaf(&cpuid, 1, 0)[1] >> 16 & 0xff, count);
                for &(function, levels) in leaves {
                    assert_eq!(package(&cpuid, function), (0, levels), "{count} {index}");
                    assert_eq!(leaf(&cpuid, function, 0)[3], index);
                    assert_eq!(leaf(&cpuid, function, levels - 1)[1], count);
                }
            }
        }
    }
}

#[test]
fn the_levels_are_one_thread_and_the_cores() {
    let cpuid = &vcpus(&recorded::intel(), 3)[2];
    for function in [0xb, 0x1f] {
        assert_eq!(leaf(cpuid, function, 0), [0, 1, 0x100, 2]);
        assert_eq!(leaf(cpuid, function, 1), [2, 3, 0x201, 2]);
        assert_eq!(leaf(cpuid, function, 2), [0, 0, 2, 2]);
    }
}

#[test]
fn a_topology_leaf_that_the_host_lacks_is_not_added() {
    assert_eq!(find(&vcpus(&recorded::amd(), 2)[0], 0x1f, 0), None);
    assert_eq!(find(&vcpus(&recorded::intel(), 2)[0], 0x8000_0026, 0), None);
}

#[test]
fn the_legacy_leaves_agree_with_the_topology() {
    let amd = &vcpus(&recorded::amd(), 3)[1];
    assert_eq!(leaf(amd, 0x8000_0001, 0)[2] & CMP_LEGACY, CMP_LEGACY);
    assert_eq!(leaf(amd, 0x8000_0008, 0)[2], 2 << 12 | 2);
    assert_eq!(leaf(amd, 0x8000_001e, 0), [1, 1, 0, 0]);
    let intel = &vcpus(&recorded::intel(), 3)[1];
    // Reserved on Intel: Linux would stop reading the topology at CMP_LEGACY.
    assert_eq!(leaf(intel, 0x8000_0001, 0)[2], 0x121);
    assert_eq!(leaf(intel, 0x8000_0008, 0)[2], 0);
    // Cores of the package; the last level of cache is shared by all.
    assert_eq!(leaf(intel, 4, 0)[0], 3 << 26 | 0x121);
    assert_eq!(leaf(intel, 4, 3)[0], 3 << 26 | 3 << 14 | 0x163);
}

#[test]
fn performance_counters_are_hidden_on_both_vendors() {
    let intel = &vcpus(&recorded::intel(), 1)[0];
    let amd = &vcpus(&recorded::amd(), 1)[0];
    for (cpuid, function) in [
        (intel, 0xa),
        (intel, 0x1c),
        (amd, 0x8000_0022),
        (amd, 0x8000_001b),
    ] {
        assert_eq!(leaf(cpuid, function, 0), [0; 4], "{function:x}");
    }
    // PDCM; branch records; the extended counters of leaf 0x23.
    assert_eq!(leaf(intel, 1, 0)[2] & 1 << 15, 0);
    assert_eq!(leaf(intel, 7, 0)[3] & 1 << 19, 0);
    assert_eq!(leaf(intel, 7, 1)[0], 0x10);
    // PerfCtrExtCore, PerfCtrExtNb, PerfCtrExtLlc, IBS.
    let counters = 1 << 23 | 1 << 24 | 1 << 28 | 1 << 10;
    assert_eq!(leaf(amd, 0x8000_0001, 0)[2] & counters, 0);
}

#[test]
fn host_only_features_are_hidden() {
    let entry = |function| kvm_cpuid_entry2 {
        function,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
        ..Default::default()
    };
    let hidden = [0x5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x23, 0x8000_000a];
    let shown = [0x1, 0x6, 0x7, 0x8000_0001];
    let leaves: Vec<_> = hidden.iter().chain(&shown).map(|&at| entry(at)).collect();
    let cpuid = for_vcpu(&CpuId::from_entries(&leaves).unwrap(), 0, 1).unwrap();
    for function in hidden {
        assert_eq!(leaf(&cpuid, function, 0), [0; 4]);
    }
    assert_eq!(leaf(&cpuid, 0x6, 0)[0], ARAT);
    assert_eq!(leaf(&cpuid, 0x1, 0)[2] & HOST_1_ECX, 0);
    assert_eq!(leaf(&cpuid, 0x1, 0)[3] & HOST_1_EDX, 0);
    assert_eq!(leaf(&cpuid, 0x7, 0)[1], !HOST_7_EBX);
    assert_eq!(leaf(&cpuid, 0x8000_0001, 0)[2] & HOST_8000_0001_ECX, 0);
}

#[test]
fn one_vcpu_is_not_hyper_threaded() {
    for supported in [recorded::intel(), recorded::amd()] {
        let cpuid = &vcpus(&supported, 1)[0];
        assert_eq!(leaf(cpuid, 1, 0)[3] & HTT, 0);
        assert_eq!(leaf(cpuid, 1, 0)[2] & HYPERVISOR, HYPERVISOR);
        assert_eq!(leaf(cpuid, 0x8000_0001, 0)[2] & CMP_LEGACY, 0);
    }
}
