//! Engine `kvm` with a stock kernel on real KVM, in the lab: every boot protocol, every way to end,
//! one vCPU and several.
//!
//! The test copies its own program into the lab and runs it there once per VM. Inside the lab the
//! variable [`INSIDE`] is set, and the same test boots the VM that it describes.

use std::path::Path;
use std::process::Command;

use crate::guest::{self, PROGRAM, Vm};
use microagent_tests::lab::Machine;
use microagent_tests::{or_skip, tool};
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::probe::{self, KvmProbe};
use microagent_vmm::virtio::rng::Rng;

/// `KERNEL CPUS MEMORY-MIB WORDS…`: the VM to boot, with words for the kernel command line.
const INSIDE: &str = "MICROAGENT_TEST_BOOT";

/// The guest's script; the test checks its output.
const SCRIPT: &str = r#"
read -r line < /proc/cmdline
echo "GUEST $(nproc) CPUs, $(cat /sys/bus/virtio/devices/virtio0/device 2>/dev/null)"
echo "GUEST clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
echo "GUEST entropy $(dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c)"
case "$line" in
    *end=reset*) reboot -f ;;
    *end=panic*) echo c > /proc/sysrq-trigger ;;
esac
"#;

fn boot(words: &str) {
    let mut words = words.split(' ');
    let mut next = || words.next().unwrap();
    let (kernel, cpus, memory_mib) = (next(), next(), next());
    let mut config = guest::config(cpus.parse().unwrap(), memory_mib.parse().unwrap());
    config.kernel = kernel.into();
    config.extra_cmdline = Some(words.collect::<Vec<_>>().join(" "));
    let rng = Device {
        kind: DeviceKind::Rng,
        device: Box::new(Rng::new()),
    };
    Vm::start(&config, vec![rng]).finish(50, &["GUEST ", "Kernel panic"]);
}

/// Extracts the ELF kernel from a bzImage, like the kernel's `extract-vmlinux`.
fn extract_vmlinux(bz_image: &Path, to: &Path) -> Vec<u8> {
    let image = std::fs::read(bz_image).unwrap();
    let legacy_frame = [0x02, 0x21, 0x4c, 0x18];
    let start = image
        .windows(4)
        .position(|bytes| bytes == legacy_frame)
        .unwrap();
    std::fs::write(to, &image[start..]).unwrap();
    let payload = std::fs::File::open(to).unwrap();
    let output = Command::new("lz4")
        .arg("-dc")
        .stdin(payload)
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(b"\x7fELF"));
    std::fs::write(to, &output.stdout).unwrap();
    output.stdout
}

/// Renames the Xen note, so that the kernel has no PVH entry.
fn without_pvh(mut vmlinux: Vec<u8>, to: &Path) {
    let note = b"\x12\0\0\0Xen\0";
    let at: Vec<usize> = (0..vmlinux.len() - note.len())
        .filter(|&at| vmlinux[at..].starts_with(note))
        .collect();
    assert_eq!(at.len(), 1, "the kernel has one PVH note");
    vmlinux[at[0] + 4] = b'Y';
    std::fs::write(to, vmlinux).unwrap();
}

#[test]
fn debians_kernel_boots_and_ends_on_real_kvm() {
    if let Ok(words) = std::env::var(INSIDE) {
        if words == "probe" {
            // With one processor, libtest prints the test's name first, without a newline.
            println!();
            println!("END {}", matches!(probe::kvm(), KvmProbe::Usable { .. }));
        } else {
            boot(&words);
        }
        return;
    }
    for program in ["lz4", "cpio", "rustc"] {
        or_skip!(tool::find(program));
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest(dir.path(), &format!("mount -t sysfs none /sys\n{SCRIPT}"));
    let (vmlinux, no_pvh) = (dir.path().join("vmlinux"), dir.path().join("no-pvh"));
    without_pvh(extract_vmlinux(&guest.kernel, &vmlinux), &no_pvh);

    let machine = Machine {
        memory_mib: 6144,
        cpus: 1,
        ..Machine::default()
    };
    let mut lab = or_skip!(guest.lab(machine));
    for (file, name) in [(&vmlinux, "/vmlinux"), (&no_pvh, "/no-pvh")] {
        lab.file(file, name).unwrap();
    }
    let test = "kvm_linux::debians_kernel_boots_and_ends_on_real_kvm";
    let mut step = |words: &str| {
        let script = format!("{INSIDE}='{words}' {PROGRAM} --exact {test} --nocapture");
        lab.step(words, &script, 60);
    };
    let vms = [
        ("/vmlinuz 1 256 a=b", 1, "PowerOff"),
        ("/vmlinux 2 256 a=b", 2, "PowerOff"),
        ("/no-pvh 1 256 a=b", 1, "PowerOff"),
        // RAM on both sides of the MMIO hole.
        ("/vmlinux 1 3584 a=b", 1, "PowerOff"),
        ("/vmlinux 1 256 end=reset", 1, "Reset"),
        ("/vmlinux 1 256 end=panic", 1, "Reset"),
    ];
    step("probe");
    vms.iter().for_each(|(words, ..)| step(words));
    let report = lab.boot().unwrap();
    let lines = |name: &str| -> Vec<String> {
        let relevant = |line: &&str| {
            ["GUEST ", "Kernel panic", "END "]
                .iter()
                .any(|p| line.starts_with(p))
        };
        let text = guest::text_of(report.step(name));
        text.lines().filter(relevant).map(str::to_owned).collect()
    };
    assert_eq!(lines("probe"), ["END true"]);
    for (words, cpus, end) in vms {
        let mut expected = vec![
            format!("GUEST {cpus} CPUs, 0x0004"),
            "GUEST clock kvm-clock".to_owned(),
            "GUEST entropy 64".to_owned(),
        ];
        if words.ends_with("end=panic") {
            expected.push("Kernel panic - not syncing: sysrq triggered crash".to_owned());
        }
        expected.push(format!("END Ok({end})"));
        assert_eq!(lines(words), expected, "{words}");
    }
}
