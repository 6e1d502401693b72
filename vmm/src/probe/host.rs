//! What the state of a VM depends on besides the monitor: processor and kernel of the host.
#![allow(unsafe_code)]

use std::arch::x86_64::__cpuid_count;
use std::fmt::Write;

/// The leaves of CPUID, and the registers of each, that say which model this is and what it has. EBX of
/// leaf 1 differs between the processors of one host.
const LEAVES: [(u32, u32, [bool; 4]); 9] = [
    (0, 0, [true; 4]),
    (1, 0, [true, false, true, true]),
    (7, 0, [true; 4]),
    (7, 1, [true; 4]),
    (0xd, 0, [true, false, true, true]),
    (0xd, 1, [true, false, true, true]),
    (0x8000_0001, 0, [true; 4]),
    (0x8000_0008, 0, [true; 4]),
    (0x8000_0021, 0, [true; 4]),
];

/// The first of the extended leaves.
const EXTENDED: u32 = 0x8000_0000;

/// The version of the processor's microcode, where the kernel can change it.
const MICROCODE: &str = "/sys/devices/system/cpu/cpu0/microcode/version";

/// A text that is the same on two hosts if one can restore a VM that was saved on the other: the
/// processor's model, features and microcode, and the kernel. It is stricter than it would have to be.
pub fn identity() -> String {
    let mut text = String::new();
    for (leaf, subleaf, registers) in LEAVES {
        // A larger one is another leaf on Intel's processors, perhaps one that differs between them.
        if leaf > cpuid(leaf & EXTENDED, 0)[0] {
            continue;
        }
        let values = cpuid(leaf, subleaf).into_iter().zip(registers);
        for (value, _) in values.filter(|(_, part)| *part) {
            // A string cannot fail.
            let _ = write!(text, "{value:x} ");
        }
    }
    let microcode = std::fs::read_to_string(MICROCODE).unwrap_or_default();
    let kernel = rustix::system::uname();
    let [release, version] = [kernel.release(), kernel.version()].map(|it| it.to_string_lossy());
    // It can take features away from KVM.
    let parameters = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let [microcode, parameters] = [microcode, parameters].map(|text| text.trim_end().to_owned());
    let _ = write!(text, "{microcode} {release} {version} {parameters}");
    text
}

/// EAX, EBX, ECX and EDX of a leaf.
fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    // SAFETY: needed because the intrinsic is an unsafe function before Rust 1.93. Sound because every
    // x86-64 processor has the instruction, which changes nothing.
    #[allow(unused_unsafe)]
    let found = unsafe { __cpuid_count(leaf, subleaf) };
    [found.eax, found.ebx, found.ecx, found.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_the_same_on_every_processor() {
        let first = identity();
        let cpus = std::thread::available_parallelism().unwrap().get();
        for cpu in 0..cpus {
            let other = std::thread::spawn(move || {
                let mut set = rustix::thread::CpuSet::new();
                set.set(cpu);
                rustix::thread::sched_setaffinity(None, &set).unwrap();
                identity()
            });
            assert_eq!(other.join().unwrap(), first, "processor {cpu}");
        }
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert!(first.contains(release.trim_end()), "{first}");
    }
}
