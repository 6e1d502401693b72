//! Bare guests on this host's `/dev/kvm`: a few hand-assembled instructions each, booted as PVH
//! kernels by the real loader. They use no SSE, so they also run where KVM emulates its guests.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microagent_proto::control::{Engine, StopReason, VmConfig};
use microagent_vmm::console::Console;
use microagent_vmm::engine::{Device, DeviceKind, EngineError, Launch, RunningVm, StepName, kvm};
use microagent_vmm::virtio::rng::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A PVH kernel with one segment at 1 MiB that holds `code`, entered in 32-bit protected mode.
fn pvh_kernel(code: &[u8]) -> Vec<u8> {
    const ADDRESS: u64 = 0x10_0000;
    const NOTE_AT: u64 = 0x100;
    const CODE_AT: u64 = 0x1000;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2u16, 62].map(u16::to_le_bytes).concat());
    file.extend(1u32.to_le_bytes());
    file.extend([ADDRESS, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut segment = |kind: u32, offset: u64, address: u64, length: u64, align: u64| {
        file.extend([kind, 7].map(u32::to_le_bytes).concat());
        file.extend(
            [offset, address, address, length, length, align]
                .map(u64::to_le_bytes)
                .concat(),
        );
    };
    segment(1, CODE_AT, ADDRESS, code.len() as u64, 0x1000);
    segment(4, NOTE_AT, 0, 20, 4);
    file.resize(NOTE_AT as usize, 0);
    file.extend([4u32, 4, 18].map(u32::to_le_bytes).concat());
    file.extend(b"Xen\0");
    file.extend((ADDRESS as u32).to_le_bytes());
    file.resize(CODE_AT as usize, 0);
    file.extend(code);
    file
}

struct Guest {
    vm: Box<dyn RunningVm>,
    console: Console,
    steps: Vec<StepName>,
    _dir: tempfile::TempDir,
}

fn boot(code: &[u8]) -> Guest {
    boot_with(code, Some(b"initramfs"))
}

fn boot_with(code: &[u8], initramfs: Option<&[u8]>) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let config = VmConfig {
        name: "bare".into(),
        engine: Engine::Kvm,
        cpus: 1,
        memory_mib: 32,
        kernel: file("kernel", &pvh_kernel(code)),
        initramfs: initramfs.map(|bytes| file("initramfs", bytes)),
        extra_cmdline: None,
        disks: Vec::new(),
        run_dir: dir.path().into(),
        console_to_stderr: false,
        listen: Vec::new(),
        net: None,
        saved: None,
    };
    let console = Console::new(false);
    let devices = vec![Device {
        kind: DeviceKind::Rng,
        device: Box::new(Rng::new()),
    }];
    let mut steps = Vec::new();
    let launch = Launch {
        config: &config,
        devices,
        console: console.clone(),
    };
    let prepared = kvm::Prepared::begin(|| {}).unwrap();
    let vm = kvm::start(prepared, launch, |step| steps.push(step))
        .expect("this host has a usable /dev/kvm");
    Guest {
        vm,
        console,
        steps,
        _dir: dir,
    }
}

impl Guest {
    fn wait(&mut self) -> Result<StopReason, EngineError> {
        let deadline = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let fd = self.vm.ended_fd();
        let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&deadline)).unwrap();
        assert_eq!(ready, 1, "the guest did not end within 10 s");
        self.vm.end().expect("the descriptor is readable")
    }
}

/// `mov dx, port; mov al, value; out dx, al`
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee]
}

const POWER_OFF: u8 = 5 << 2 | 1 << 5;

#[test]
fn a_guest_writes_to_its_serial_port_and_powers_off() {
    let code = [out(0x3f8, b'h'), out(0x3f8, b'i'), out(0x600, POWER_OFF)].concat();
    let mut guest = boot(&code);
    assert_eq!(guest.wait().unwrap(), StopReason::PowerOff);
    assert_eq!(guest.console.tail(100), "hi");
    assert_eq!(
        guest.steps,
        [StepName::Loaded, StepName::Created, StepName::Running]
    );
}

#[test]
fn a_reset_is_a_reset() {
    assert_eq!(boot(&out(0x602, 1)).wait().unwrap(), StopReason::Reset);
    assert_eq!(boot(&out(0x64, 0xfe)).wait().unwrap(), StopReason::Reset);
}

#[test]
fn a_triple_fault_is_a_crash() {
    // ud2, without an interrupt table.
    assert_eq!(boot(&[0x0f, 0x0b]).wait().unwrap(), StopReason::Crash);
}

#[test]
fn an_endless_loop_is_killed() {
    // jmp to itself.
    let mut guest = boot(&[0xeb, 0xfe]);
    assert!(guest.vm.end().is_none());
    guest.vm.kill();
    assert_eq!(guest.wait().unwrap(), StopReason::Killed);
    let start = Instant::now();
    drop(guest);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_guest_that_hangs_is_diagnosed() {
    let cases: [(&[u8], &str); 2] = [
        // jmp to itself.
        (&[0xeb, 0xfe], "vcpu 0: running, rip 0x100000, rsp 0x"),
        // hlt; it would continue after an interrupt, and has disabled them.
        (&[0xf4], "vcpu 0: halted, rip 0x100001, rsp 0x"),
    ];
    let line = |guest: &mut Guest| {
        let report = guest.vm.diagnose();
        let line = report.lines().find(|line| line.starts_with("vcpu 0: "));
        line.map(str::to_owned).ok_or(report).unwrap()
    };
    for (code, start) in cases {
        let mut guest = boot(code);
        // The first instruction may be still to come.
        let deadline = Instant::now() + Duration::from_secs(10);
        while !line(&mut guest).starts_with(start) {
            assert!(Instant::now() < deadline, "{}", line(&mut guest));
        }
        assert!(
            line(&mut guest).ends_with("interrupts disabled, in service none, pending none"),
            "{}",
            line(&mut guest)
        );
        guest.vm.pause().unwrap();
        let paused = line(&mut guest);
        assert!(paused.starts_with(start), "{paused}");
        assert_eq!(line(&mut guest), paused);
        guest.vm.resume().unwrap();
        assert!(guest.vm.end().is_none());
    }
}

#[test]
fn the_start_info_names_the_initramfs() {
    // mov esi, [ebx+16] (module list); mov esi, [esi] (address); then nine bytes to the port.
    let mut code = vec![0x8b, 0x73, 0x10, 0x8b, 0x36, 0x66, 0xba, 0xf8, 0x03];
    for _ in 0..9 {
        code.extend([0x8a, 0x06, 0xee, 0x46]); // mov al, [esi]; out dx, al; inc esi
    }
    code.extend(out(0x600, POWER_OFF));
    let mut guest = boot(&code);
    assert_eq!(guest.wait().unwrap(), StopReason::PowerOff);
    assert_eq!(guest.console.tail(100), "initramfs");
}

#[test]
fn without_an_initramfs_the_start_info_names_none() {
    // mov eax, [ebx+12] (number of modules); add al, '0'; then to the port.
    let mut code = vec![0x8b, 0x43, 0x0c, 0x04, b'0', 0x66, 0xba, 0xf8, 0x03, 0xee];
    code.extend(out(0x600, POWER_OFF));
    for (initramfs, modules) in [(Some(&b"initramfs"[..]), "1"), (None, "0")] {
        let mut guest = boot_with(&code, initramfs);
        assert_eq!(guest.wait().unwrap(), StopReason::PowerOff);
        assert_eq!(guest.console.tail(100), modules);
    }
}

#[test]
fn a_virtio_device_answers_at_its_address() {
    // One byte of the register at 0xd0000000 + offset, to the port.
    let mut code = Vec::new();
    for (offset, shift) in [(0u32, 0u8), (0, 8), (0, 16), (0, 24), (4, 0), (8, 0)] {
        code.push(0xa1); // mov eax, [moffs32]
        code.extend((0xd000_0000 + offset).to_le_bytes());
        code.extend([0xc1, 0xe8, shift]); // shr eax, shift
        code.extend([0x66, 0xba, 0xf8, 0x03, 0xee]); // mov dx, 0x3f8; out dx, al
    }
    code.extend(out(0x600, POWER_OFF));
    let mut guest = boot(&code);
    assert_eq!(guest.wait().unwrap(), StopReason::PowerOff);
    assert_eq!(guest.console.tail(100), "virt\u{2}\u{4}");
}
