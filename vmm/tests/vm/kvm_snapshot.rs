//! Saving a stock kernel's VM and restoring it, twice, in the lab.
//!
//! As in `kvm_linux.rs`, the test runs its own program inside the lab, where [`INSIDE`] is set.

use std::fs::File;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::guest::{self, PROGRAM, Vm};
use microagent_proto::control::VmConfig;
use microagent_tests::lab::Machine;
use microagent_tests::{or_skip, tool};
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::block::{Block, Raw};
use microagent_vmm::virtio::rng::Rng;
use microagent_vmm::virtio::vsock::{Services, Vsock};
use rustix::fs::{MemfdFlags, memfd_create};

/// Set inside the lab: the number of vCPUs, and the guest's memory in MiB.
const INSIDE: &str = "MICROAGENT_TEST_SNAPSHOT";

/// The guest reports to port 7000 and is saved; only the restored VM has port 7001, and that which was
/// restored from it port 7002. A request that was under way when it was saved is lost.
const SCRIPT: &str = r#"
mount -t sysfs none /sys
mkdir -p /mnt; mount /dev/vda /mnt
head -c 3000000 /dev/urandom >/mnt/before; sum=$(sha256sum </mnt/before)
registers >/tmp/registers &
(while :; do usleep 20000; echo >>/tmp/ticks; done) &
up() { read -r up rest </proc/uptime; echo ${up%.*}; }
start=$(up)
saved() {
    vsock connect 7000 </dev/null
    until vsock connect $1 </dev/null 2>/dev/null; do usleep 50000; done
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(sha256sum </mnt/before)" = "$sum" ] && echo "GUEST before"
    head -c 2000000 /dev/urandom >/mnt/after-$1; sync; echo 3 >/proc/sys/vm/drop_caches
    after=$(sha256sum </mnt/after-$1); [ "$(sha256sum </mnt/after-$1)" = "$after" ] && echo "GUEST after"
    for cpu in $(seq 0 $(($(nproc) - 1))); do taskset $((1 << cpu)) usleep 200000 && echo "GUEST timer"; done
    ticks=$(wc -l </tmp/ticks); until [ $(wc -l </tmp/ticks) -gt $((ticks + 3)) ]; do usleep 20000; done
    [ $(head -c 16 /dev/hwrng | wc -c) = 16 ] && echo "GUEST entropy"
    [ $(($(up) - start)) -lt 100 ] && echo "GUEST clock"
}
saved 7001
saved 7002
touch /tmp/go; wait %1
echo "GUEST $(cat /tmp/registers)"
umount /mnt
"#;

const TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the VM, or restores it. `port` is the one that it has beside 7000, whose connections are
/// reported.
fn vm(
    config: &VmConfig,
    disk: &File,
    port: u32,
    saved: Option<(&[u8], &File)>,
) -> (Vm, Receiver<()>) {
    let (reached, reports) = mpsc::channel();
    let services = Services::new()
        .with(7000, move |_| reached.send(()).unwrap())
        .with(port, drop);
    let len = disk.metadata().unwrap().len();
    let device = |kind, device| Device { kind, device };
    let raw = Raw::new(disk.try_clone().unwrap(), len, false);
    let devices = vec![
        device(
            DeviceKind::Block,
            Box::new(Block::new(Box::new(raw), "disk")) as Box<_>,
        ),
        device(
            DeviceKind::Vsock,
            Box::new(Vsock::new(3, services).unwrap().0),
        ),
        device(DeviceKind::Rng, Box::new(Rng::new())),
    ];
    let vm = match saved {
        None => Vm::start(config, devices),
        Some((state, memory)) => Vm::restore(config, devices, state, memory),
    };
    (vm, reports)
}

fn memory_file() -> File {
    File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap())
}

fn run(words: &str) {
    let (cpus, memory_mib) = words.split_once(' ').unwrap();
    let config = guest::config(cpus.parse().unwrap(), memory_mib.parse().unwrap());
    let mut disk = memory_file();
    std::io::copy(&mut File::open("/disk").unwrap(), &mut disk).unwrap();
    let (mut first, reports) = vm(&config, &disk, 6999, None);
    reports.recv_timeout(TIMEOUT).unwrap();
    let (state, memory) = save(&mut first, "FIRST");
    drop(first);
    let (mut second, reports) = vm(&config, &disk, 7001, Some((&state, &memory)));
    reports.recv_timeout(TIMEOUT).unwrap();
    let (state, memory) = save(&mut second, "SECOND");
    // It is not what the VM was restored from that is used, but what it was saved to.
    print!("{}", second.console());
    drop(second);
    let (third, _reports) = vm(&config, &disk, 7002, Some((&state, &memory)));
    third.finish(60, &["GUEST "]);
}

fn save(vm: &mut Vm, name: &str) -> (Vec<u8>, File) {
    let memory = memory_file();
    let started = Instant::now();
    let state = vm.save(&memory);
    println!("{name} {} bytes in {:?}", state.len(), started.elapsed());
    (state, memory)
}

#[test]
fn a_restored_vm_goes_on_where_it_was_saved() {
    if let Ok(words) = std::env::var(INSIDE) {
        return run(&words);
    }
    for program in ["cpio", "rustc", "mke2fs"] {
        or_skip!(tool::find(program));
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = guest::guest_with(dir.path(), SCRIPT, &["registers"]);
    let disk = dir.path().join("disk");
    let size = ["-q", "-t", "ext4"].map(std::ffi::OsStr::new);
    let mut words = size.to_vec();
    words.extend([disk.as_os_str(), "32M".as_ref()]);
    tool::run("mke2fs", words).unwrap();
    let mut lab = or_skip!(guest.lab(Machine::default()));
    lab.file(&disk, "/disk").unwrap();
    let test = "kvm_snapshot::a_restored_vm_goes_on_where_it_was_saved";
    let machines = ["1 128", "2 256"];
    for words in machines {
        let script = format!("{INSIDE}='{words}' {PROGRAM} --exact {test} --nocapture");
        lab.step(words, &script, 150);
    }
    let report = lab.boot().unwrap();
    for words in machines {
        let text = guest::text_of(report.step(words));
        let cpus = words[..1].parse().unwrap();
        let mut expected = Vec::new();
        for _ in 0..2 {
            expected.extend(["before", "after"]);
            expected.extend(vec!["timer"; cpus]);
            expected.extend(["entropy", "clock"]);
        }
        let lines = guest::lines_after(&text, "GUEST ");
        // The processor of a lab may have no AVX for its guests.
        let (registers, lines) = lines.split_last().unwrap();
        assert_eq!(lines, expected, "{text}");
        assert_eq!(registers[1..], *"mm true true true true", "{text}");
        assert_eq!(
            guest::lines_after(&text, "END "),
            ["Ok(PowerOff)"],
            "{text}"
        );
    }
}
