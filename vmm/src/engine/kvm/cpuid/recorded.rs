//! CPUID tables as `KVM_GET_SUPPORTED_CPUID` returns them on two kinds of servers, composed from
//! the vendors' documents and KVM's own leaves. The lab's processor is an AMD one without most of
//! this.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Function, subleaf if it is significant, and EAX, EBX, ECX, EDX.
type Row = (u32, Option<u32>, [u32; 4]);

/// An Intel Xeon of the Ice Lake generation with Linux 6.2 or later: subleaf 0 of the topology
/// leaves is zero.
const INTEL: &[Row] = &[
    (0x0, None, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (0x1, None, [0x606a6, 0x0040_0800, 0xf7fa_3223, 0x1f8b_fbff]),
    (0x2, None, [0x00fe_ff01, 0xf0, 0, 0]),
    (0x4, Some(0), [0x7c00_4121, 0x02c0_003f, 0x3f, 0]),
    (0x4, Some(1), [0x7c00_4122, 0x01c0_003f, 0x3f, 0]),
    (0x4, Some(2), [0x7c00_4143, 0x04c0_003f, 0x3ff, 0]),
    (0x4, Some(3), [0x7c0f_c163, 0x02c0_003f, 0xdfff, 0x4]),
    (0x4, Some(4), [0, 0, 0, 0]),
    (0x5, None, [0, 0, 3, 0]),
    (0x6, None, [0x4, 0, 0, 0]),
    (0x7, Some(0), [1, 0xf1bf_27eb, 0x0040_5f4e, 0xac08_4510]),
    (0x7, Some(1), [0x110, 0, 0, 0]),
    (0xa, None, [0x0830_0805, 0, 0x7, 0x8603]),
    (0xb, Some(0), [0, 0, 0, 0]),
    (0xd, Some(0), [0x2e7, 0xa80, 0xa80, 0]),
    (0xd, Some(1), [0xf, 0xa80, 0x100, 0]),
    (0x12, Some(0), [0, 0, 0, 0]),
    (0x14, Some(0), [1, 0xf, 7, 0]),
    (0x1c, Some(0), [0x4000_000b, 7, 7, 0]),
    (0x1f, Some(0), [0, 0, 0, 0]),
    (
        0x4000_0000,
        None,
        [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
    ),
    (0x4000_0001, None, [0x0100_7efb, 0, 0, 0]),
    (0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
    (0x8000_0001, None, [0, 0, 0x121, 0x2c10_0800]),
    (0x8000_0006, None, [0, 0, 0x0100_6040, 0]),
    (0x8000_0008, None, [0x3039, 0x0100_d200, 0, 0]),
];

/// An AMD EPYC of the Genoa generation. Leaf 0x8000_0026 is not offered by KVM yet, but its values
/// for one level are what the host has.
const AMD: &[Row] = &[
    (0x0, None, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
    (
        0x1,
        None,
        [0x00a1_0f11, 0x0540_0800, 0xf6f8_3203, 0x178b_fbff],
    ),
    (0x6, None, [0x4, 0, 0, 0]),
    (0x7, Some(0), [1, 0xf1bf_07a9, 0x0040_5fce, 0x1000_0010]),
    (0xb, Some(0), [0, 0, 0, 0]),
    (0xd, Some(0), [0x2e7, 0x988, 0x988, 0]),
    (
        0x4000_0000,
        None,
        [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d],
    ),
    (
        0x8000_0000,
        None,
        [0x8000_0026, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
    ),
    (
        0x8000_0001,
        None,
        [0x00a1_0f11, 0x4000_0000, 0x75c2_37ff, 0x2fd3_fbff],
    ),
    (
        0x8000_0005,
        None,
        [0xff48_ff40, 0xff48_ff40, 0x2008_0140, 0x2008_0140],
    ),
    (
        0x8000_0006,
        None,
        [0x5c00_2200, 0x6c00_4200, 0x0400_8140, 0x0980_9140],
    ),
    (0x8000_0008, None, [0x3034, 0x791e_f257, 0x7007, 0]),
    (0x8000_000a, None, [1, 8, 0, 0x119b_9cff]),
    (0x8000_001b, None, [0x3ff, 0, 0, 0]),
    (0x8000_001d, Some(0), [0x4121, 0x01c0_003f, 0x3f, 0]),
    (0x8000_001e, None, [5, 0x102, 0, 0]),
    (0x8000_0022, None, [7, 0x0001_0106, 0, 0]),
    (0x8000_0026, Some(0), [1, 2, 0x100, 5]),
    (0x8000_0026, Some(1), [4, 16, 0x201, 5]),
];

pub(super) fn intel() -> CpuId {
    table(INTEL)
}

pub(super) fn amd() -> CpuId {
    table(AMD)
}

fn table(rows: &[Row]) -> CpuId {
    let entries: Vec<_> = rows
        .iter()
        .map(
            |&(function, index, [eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
                function,
                index: index.unwrap_or_default(),
                flags: index.map_or(0, |_| KVM_CPUID_FLAG_SIGNIFCANT_INDEX),
                eax,
                ebx,
                ecx,
                edx,
                ..Default::default()
            },
        )
        .collect();
    CpuId::from_entries(&entries).unwrap()
}
