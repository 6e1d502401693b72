//! Engine `qemu` with a stock kernel: our devices over vhost-user, and how a VM ends.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest;
use microagent_proto::control::{
    DiskConfig, DiskMode, Engine, FromSupervisor, MAX_MESSAGE, StopReason, ToSupervisor, VmConfig,
    decode, encode,
};
use microagent_proto::envelope::Program;
use microagent_tests::{skip, tool};
use microagent_vmm::console::Console;
use microagent_vmm::engine::{Device, DeviceKind, EngineError, Launch, RunningVm, StepName, qemu};
use microagent_vmm::supervisor::{self, Control};
use microagent_vmm::virtio::block::{self, Block, Overlay};
use microagent_vmm::virtio::rng::Rng;
use microagent_vmm::virtio::vsock::{Services, Vsock, VsockHandle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};

const GUEST_CID: u32 = 3;
const DEADLINE: Duration = Duration::from_secs(60);

/// A VM and its console.
struct Vm {
    running: Box<dyn RunningVm>,
    vsock: VsockHandle,
    console: Console,
    _dir: tempfile::TempDir,
}

/// Whether this host lacks a program that these tests need.
fn skipped() -> bool {
    for program in [
        "qemu-system-x86_64",
        "busybox",
        "cpio",
        "mkfs.ext4",
        "rustc",
    ] {
        if let Err(error) = tool::find(program) {
            skip::record(&error.to_string());
            return true;
        }
    }
    false
}

fn config(dir: &Path, kernel: &Path, initramfs: &Path, disks: Vec<DiskConfig>) -> VmConfig {
    VmConfig {
        name: "test".into(),
        engine: Engine::Qemu,
        cpus: 2,
        memory_mib: 256,
        kernel: kernel.into(),
        initramfs: Some(initramfs.into()),
        extra_cmdline: None,
        disks,
        run_dir: dir.into(),
        console_to_stderr: std::env::var_os("CONSOLE").is_some(),
        listen: Vec::new(),
        net: None,
        saved: None,
    }
}

impl Vm {
    fn boot(script: &str, disks: Vec<DiskConfig>, services: Services) -> Vm {
        let dir = tempfile::tempdir().unwrap();
        let guest = guest::guest(dir.path(), script);
        let config = config(dir.path(), &guest.kernel, &guest.initramfs, disks);
        let (running, vsock, console) = start(&config, services).unwrap();
        Vm {
            running,
            vsock,
            console,
            _dir: dir,
        }
    }

    /// Waits for the end. Returns how the VM ended, and the console output.
    fn wait(mut self) -> (StopReason, String) {
        let end = wait(&mut *self.running).unwrap();
        (end, self.console.tail(usize::MAX))
    }
}

fn start(
    config: &VmConfig,
    services: Services,
) -> Result<(Box<dyn RunningVm>, VsockHandle, Console), EngineError> {
    let disks = config.disks.iter().zip(0..);
    let disks = disks.map(|(disk, index)| block::open(disk, &format!("disk{index}")).unwrap());
    start_with(config, disks.collect(), services)
}

fn start_with(
    config: &VmConfig,
    disks: Vec<Block>,
    services: Services,
) -> Result<(Box<dyn RunningVm>, VsockHandle, Console), EngineError> {
    let disks = disks.into_iter().map(|disk| Device {
        kind: DeviceKind::Block,
        device: Box::new(disk),
    });
    let mut devices: Vec<Device> = disks.collect();
    let (device, vsock) = Vsock::new(GUEST_CID, services).unwrap();
    devices.push(Device {
        kind: DeviceKind::Vsock,
        device: Box::new(device),
    });
    devices.push(Device {
        kind: DeviceKind::Rng,
        device: Box::new(Rng::new()),
    });
    let console = Console::new(config.console_to_stderr);
    let mut steps = Vec::new();
    let launch = Launch {
        config,
        devices,
        console: console.clone(),
    };
    let running = qemu::start(launch, |step| steps.push(step))?;
    assert_eq!(
        steps,
        [StepName::Created, StepName::Loaded, StepName::Running]
    );
    Ok((running, vsock, console))
}

fn wait(running: &mut dyn RunningVm) -> Result<StopReason, EngineError> {
    let timeout = Timespec {
        tv_sec: DEADLINE.as_secs() as i64,
        tv_nsec: 0,
    };
    let ended = running.ended_fd();
    let n = poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&timeout)).unwrap();
    assert_eq!(n, 1, "the VM did not end within {DEADLINE:?}");
    running.end().expect("the descriptor is readable")
}

/// A QEMU of this process that runs a machine has a seccomp filter (proc(5), `Seccomp`). Those of
/// other tests may not have reached it yet, or have ended.
fn assert_sandboxed() {
    let mut states = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let children = task.unwrap().path().join("children");
        for pid in fs::read_to_string(children).unwrap().split_whitespace() {
            let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
            if let (Ok(command), Ok(status)) = (read("cmdline"), read("status"))
                && command.contains("microvm")
            {
                states.extend(
                    status
                        .lines()
                        .find(|line| line.starts_with("Seccomp:"))
                        .map(str::to_owned),
                );
            }
        }
    }
    assert!(
        states.iter().any(|state| state == "Seccomp:\t2"),
        "{states:?}"
    );
}

/// Creates an ext4 image with these files.
fn ext4(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> std::path::PathBuf {
    let tree = dir.join(format!("{name}.tree"));
    fs::create_dir(&tree).unwrap();
    for (file, content) in files {
        fs::write(tree.join(file), content).unwrap();
    }
    let image = dir.join(name);
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let mut make = Command::new("mkfs.ext4");
    tool::output(make.args(["-q", "-d"]).arg(&tree).arg(&image)).unwrap();
    image
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bytes");
    fs::write(&file, bytes).unwrap();
    let line = tool::text("sha256sum", [file.as_os_str()]).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// Blocks that the kernel discards are freed on the host, in images and in overlays.
#[test]
fn discarded_blocks_are_freed_on_the_host() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let base = ext4(dir.path(), "base", &[]);
    let len = fs::metadata(&base).unwrap().len();
    let script = "
        for disk in vda vdb; do
            mount /dev/$disk /mnt
            dd if=/dev/urandom of=/mnt/new bs=1M count=20 2>/dev/null; sync
            rm /mnt/new; sync; TRIM /mnt && echo TRIMMED
            umount /mnt
        done
        mount -t sysfs none /sys
        cd /sys/block/vda; echo \"BLOCK $(cat queue/physical_block_size) $(cat queue/discard_granularity)\"
    ";
    let used = |file: &fs::File| file.metadata().unwrap().blocks() * 512;
    for (trim, bound) in [("true", 20 << 20..u64::MAX), ("fstrim", 0..12 << 20)] {
        let image = dir.path().join(format!("image.{trim}"));
        fs::copy(&base, &image).unwrap();
        let delta = tempfile::tempfile().unwrap();
        let overlay = Overlay::new(
            fs::File::open(&base).unwrap(),
            len,
            delta.try_clone().unwrap(),
        );
        let image_config = DiskConfig {
            path: image.clone(),
            mode: DiskMode::ReadWrite,
        };
        let disks = vec![
            Block::new(Box::new(overlay.unwrap()), "overlay"),
            block::open(&image_config, "image").unwrap(),
        ];
        let run_dir = tempfile::tempdir().unwrap();
        let guest = guest::guest(
            run_dir.path(),
            &script.replace("TRIM ", &format!("{trim} ")),
        );
        let config = config(run_dir.path(), &guest.kernel, &guest.initramfs, vec![]);
        let (mut running, _, console) = start_with(&config, disks, Services::new()).unwrap();
        assert_eq!(wait(&mut *running).unwrap(), StopReason::PowerOff);
        let output = console.tail(usize::MAX);
        assert_eq!(output.matches("TRIMMED").count(), 2, "{output}");
        assert!(output.contains("BLOCK 4096 4096"), "{output}");
        let used = [used(&delta), used(&fs::File::open(&image).unwrap())];
        println!("{trim}: {used:?} bytes");
        assert!(
            used.iter().all(|used| bound.contains(used)),
            "{trim}: {used:?}"
        );
        tool::run("e2fsck", ["-fn".as_ref(), image.as_os_str()]).unwrap();
    }
}

#[test]
fn a_stock_kernel_finds_disks_in_order_and_overlay_writes_are_discarded() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(8 << 20, 1);
    let base = ext4(dir.path(), "base", &[("blob", &content)]);
    let kept = ext4(dir.path(), "kept", &[("name", b"kept")]);
    let before = sha256(&fs::read(&base).unwrap());
    let script = "
        mount /dev/vda /mnt && sha256sum /mnt/blob
        dd if=/dev/zero of=/mnt/new bs=1M count=20 2>/dev/null; sync
        echo 3 > /proc/sys/vm/drop_caches
        echo \"NEW $(cat /mnt/new | wc -c)\"
        umount /mnt; mount /dev/vdb /mnt; echo \"VDB $(cat /mnt/name)\"
        echo written > /mnt/written; sync; umount /mnt
        mount -t sysfs none /sys; echo \"SERIAL $(cat /sys/block/vdb/serial)\"
        [ $(dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c) = 16 ] && echo RNG
    ";
    let overlay = DiskMode::Overlay {
        scratch_dir: dir.path().into(),
    };
    let disks = vec![
        DiskConfig {
            path: base.clone(),
            mode: overlay,
        },
        DiskConfig {
            path: kept.clone(),
            mode: DiskMode::ReadWrite,
        },
    ];
    let (end, console) = Vm::boot(script, disks, Services::new()).wait();
    assert_eq!(end, StopReason::PowerOff, "{console}");
    assert!(!console.contains("FAILED"), "{console}");
    assert!(console.contains(&sha256(&content)), "{console}");
    assert!(console.contains(&format!("NEW {}", 20 << 20)), "{console}");
    assert!(console.contains("VDB kept"), "{console}");
    assert!(console.contains("SERIAL disk1"), "{console}");
    assert!(console.contains("RNG"), "{console}");
    assert_eq!(sha256(&fs::read(&base).unwrap()), before);
    for image in [&base, &kept] {
        tool::run("e2fsck", ["-fn".as_ref(), image.as_os_str()]).unwrap();
    }
    let debugfs = tool::text(
        "debugfs",
        ["-R".as_ref(), "cat written".as_ref(), kept.as_os_str()],
    );
    assert_eq!(debugfs.unwrap().trim_end(), "written");
}

#[test]
fn streams_carry_bytes_both_ways_from_either_side() {
    if skipped() {
        return;
    }
    let (started, connections) = mpsc::channel();
    let (listening, ready) = mpsc::channel();
    let services = Services::new()
        .with(4000, move |stream| started.send(stream).unwrap())
        .with(5000, move |_| listening.send(()).unwrap());
    let script = "
        vsock echo 5000 &
        vsock connect 4000 < /dev/null | sha256sum
        vsock connect 4001 < /dev/null || echo REFUSED
        wait
    ";
    let begun = Instant::now();
    let vm = Vm::boot(script, Vec::new(), services);

    // The guest connects: it receives 20 MB and sends nothing.
    let sent = pattern(20_000_000, 2);
    let mut from_guest = connections.recv_timeout(DEADLINE).unwrap();
    eprintln!("first stream from the guest after {:?}", begun.elapsed());
    let begun = Instant::now();
    from_guest.write_all(&sent).unwrap();
    from_guest.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    from_guest.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    eprintln!("20 MB to the guest in {:?}", begun.elapsed());

    // The host connects: its bytes are echoed while it sends.
    ready.recv_timeout(DEADLINE).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    vm.vsock.connect(5000, theirs);
    let mut writer = ours.try_clone().unwrap();
    let echoed = pattern(20_000_000, 3);
    let expected = echoed.clone();
    let begun = Instant::now();
    let sender = thread::spawn(move || {
        writer.write_all(&echoed).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    ours.read_to_end(&mut got).unwrap();
    sender.join().unwrap();
    eprintln!("20 MB echoed in {:?}", begun.elapsed());
    assert!(got == expected, "{} bytes were echoed", got.len());

    let (end, console) = vm.wait();
    assert_eq!(end, StopReason::PowerOff, "{console}");
    assert!(console.contains(&sha256(&sent)), "{console}");
    assert!(console.contains("REFUSED"), "{console}");
}

#[test]
fn a_stream_to_a_port_without_listener_is_closed() {
    if skipped() {
        return;
    }
    let vm = Vm::boot("sleep 1000", Vec::new(), Services::new());
    assert_sandboxed();
    // Requested before the guest's driver is loaded; the request waits for the driver.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    vm.vsock.connect(5000, theirs);
    ours.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0);
    let mut vm = vm;
    vm.running.kill();
    assert_eq!(vm.wait().0, StopReason::Killed);
}

#[test]
fn a_reset_and_a_panic_are_not_a_power_off() {
    if skipped() {
        return;
    }
    let (end, console) = Vm::boot("reboot -f", Vec::new(), Services::new()).wait();
    assert_eq!(end, StopReason::Reset, "{console}");
    let (end, console) = Vm::boot("exit", Vec::new(), Services::new()).wait();
    assert_eq!(end, StopReason::Reset, "{console}");
    assert!(console.contains("Kernel panic"), "{console}");
}

/// The whole path of the report on a guest whose agent never reports: supervisor, devices, QEMU.
#[test]
fn a_guest_that_hangs_is_diagnosed() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = ext4(dir.path(), "image", &[("name", b"x")]);
    let script = "mount /dev/vda /mnt; cat /mnt/name; echo HANGS; exec sleep 1000000";
    let guest = guest::guest(dir.path(), script);
    let disks = vec![DiskConfig {
        path: image,
        mode: DiskMode::ReadOnly,
    }];
    let config = config(dir.path(), &guest.kernel, &guest.initramfs, disks);
    let (control, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let supervisor = thread::spawn(move || supervisor::run(&Control::new(theirs), None).unwrap());
    let send = |message: &ToSupervisor| {
        let bytes = encode(message).unwrap();
        rustix::net::send(&control, &bytes, SendFlags::NOSIGNAL).unwrap();
    };
    let next = || -> FromSupervisor {
        let timeout = Timespec {
            tv_sec: DEADLINE.as_secs() as i64,
            tv_nsec: 0,
        };
        let n = poll(&mut [PollFd::new(&control, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(n, 1, "the supervisor did not answer within {DEADLINE:?}");
        let mut bytes = vec![0; MAX_MESSAGE];
        let (length, _) = rustix::net::recv(&control, &mut bytes[..], RecvFlags::empty()).unwrap();
        decode(&bytes[..length], Program::CommandLine, Program::Supervisor).unwrap()
    };

    send(&ToSupervisor::Start(Box::new(config)));
    // Until the guest's script has printed its last line. Reports slow the guest down.
    let deadline = Instant::now() + 2 * DEADLINE;
    let report = loop {
        send(&ToSupervisor::Diagnose);
        let FromSupervisor::Diagnosis { console, report } = next() else {
            panic!("not a diagnosis");
        };
        if console.contains("HANGS") {
            break report;
        }
        assert!(Instant::now() < deadline, "{console}\n{report}");
    };
    println!("{report}");
    for part in [
        "device0: virtio device type 2, active, features 0x",
        "device0: queue 0: enabled, event index on, size ",
        "device1: virtio device type 19, active, features 0x",
        "VM status: running",
        "CPU#0\n",
        "CPU#1\n",
        "RIP=",
        "dumping local APIC state",
        "ioapic0:",
        "[virtio-blk]",
        "vhost_started:           true",
        "VIRTIO_CONFIG_S_DRIVER_OK",
        "CPU 0/TCG: state ",
        "threads of the supervisor:",
    ] {
        assert!(report.contains(part), "no {part:?} in:\n{report}");
    }
    // The device has answered everything that the driver made available.
    let queue = report
        .lines()
        .find(|line| line.starts_with("device0: queue 0: "))
        .unwrap();
    let index = |name: &str| {
        let (_, rest) = queue.split_once(&format!(", {name} ")).unwrap();
        rest.split(',').next().unwrap().parse::<u16>().unwrap()
    };
    assert!(index("avail.idx") > 0, "{queue}");
    assert_eq!(index("avail.idx"), index("next_avail"), "{queue}");
    assert_eq!(index("used.idx"), index("next_used"), "{queue}");

    send(&ToSupervisor::Kill);
    let FromSupervisor::Stopped { reason, .. } = next() else {
        panic!("not Stopped");
    };
    assert_eq!(reason, StopReason::Killed);
    assert!(supervisor.join().unwrap());
}

#[test]
fn the_error_of_a_refused_configuration_is_that_of_qemu() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("no,kernel");
    let config = config(dir.path(), &file, &file, Vec::new());
    let error = start(&config, Services::new()).map(|_| ()).unwrap_err();
    assert!(matches!(error, EngineError::Qemu(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("qemu-system-x86_64: ") && text.contains("no,kernel"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1);
}
