//! One boot with one of the compared monitors.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use microagent_proto::control::{Engine, StopReason, VmConfig};
use microagent_tests::{error_chain, tool};
use microagent_vmm::console::Console;
use microagent_vmm::engine::{Device, DeviceKind, Launch, RunningVm, kvm, qemu};
use microagent_vmm::virtio::block::{Block, Raw};
use rustix::event::{PollFd, PollFlags, poll};

use super::guest::{Guest, rates};
use crate::Error;

/// Memory of the guests in MiB.
const MEMORY_MIB: u64 = 256;

/// The monitor that runs the guest and serves its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Monitor {
    /// Engine `kvm`: our monitor.
    OursKvm,
    /// QEMU's `microvm` with KVM and its `virtio-blk-device`.
    QemuKvm,
    /// Engine `qemu`: QEMU's `microvm` without KVM, our block device over vhost-user.
    OursTcg,
    /// QEMU's `microvm` without KVM and its `virtio-blk-device`.
    QemuTcg,
}

/// Creates a raw file in `dir` without allocated blocks.
///
/// # Errors
/// When the file cannot be created.
pub fn disk(dir: &Path, mib: u32) -> Result<PathBuf, Error> {
    let path = dir.join("disk");
    let file = File::create(&path).map_err(Error::file(&path))?;
    file.set_len(u64::from(mib) << 20)
        .map_err(Error::file(&path))?;
    Ok(path)
}

/// Boots the guest with the raw file `disk`; returns the MB/s of each measurement.
///
/// # Errors
/// When the VM does not start or does not complete its measurements.
pub fn measure(monitor: Monitor, guest: &Guest, disk: &Path) -> Result<Vec<f64>, Error> {
    let console = match monitor {
        Monitor::OursKvm => ours(Engine::Kvm, guest, disk)?,
        Monitor::OursTcg => ours(Engine::Qemu, guest, disk)?,
        Monitor::QemuKvm => theirs("kvm", guest, disk)?,
        Monitor::QemuTcg => theirs("tcg", guest, disk)?,
    };
    if std::env::var_os("DISK_BENCH_CONSOLE").is_some() {
        eprintln!("{console}");
    }
    rates(&console).ok_or(Error::Invalid {
        what: "disk",
        why: console,
    })
}

fn not_measured(why: impl std::error::Error) -> Error {
    Error::Invalid {
        what: "disk",
        why: error_chain(&why),
    }
}

/// The guest's console output with one of our engines.
fn ours(engine: Engine, guest: &Guest, disk: &Path) -> Result<String, Error> {
    let config = VmConfig {
        name: "disk-bench".into(),
        engine,
        cpus: 1,
        memory_mib: MEMORY_MIB,
        kernel: guest.kernel.clone(),
        initramfs: Some(guest.initramfs.clone()),
        extra_cmdline: None,
        disks: Vec::new(),
        run_dir: std::env::temp_dir(),
        console_to_stderr: false,
        listen: Vec::new(),
    };
    let file = OpenOptions::new().read(true).write(true).open(disk);
    let file: File = file.map_err(Error::file(disk))?;
    let len = file.metadata().map_err(Error::file(disk))?.len();
    let console = Console::new(false);
    let launch = Launch {
        config: &config,
        devices: vec![Device {
            kind: DeviceKind::Block,
            device: Box::new(Block::new(Box::new(Raw::new(file, len, false)), "disk")),
        }],
        console: console.clone(),
    };
    let mut vm: Box<dyn RunningVm> = match engine {
        Engine::Kvm => {
            let prepared = kvm::Prepared::begin(|| {}).map_err(not_measured)?;
            kvm::start(prepared, launch, |_| {}).map_err(not_measured)?
        }
        Engine::Qemu => qemu::start(launch, |_| {}).map_err(not_measured)?,
    };
    let ended = vm.ended_fd();
    poll(&mut [PollFd::new(&ended, PollFlags::IN)], None).map_err(not_measured)?;
    match vm.end() {
        Some(Ok(StopReason::Reset)) => Ok(console.tail(usize::MAX)),
        Some(Err(error)) => Err(not_measured(error)),
        other => Err(Error::Invalid {
            what: "disk",
            why: format!("the VM ended with {other:?}: {}", console.tail(2000)),
        }),
    }
}

/// The guest's console output with QEMU alone. Its disk is configured like ours: a raw file
/// through the host's page cache.
fn theirs(accelerator: &str, guest: &Guest, disk: &Path) -> Result<String, Error> {
    // Under TCG the guest's TSC is the host's; on a busy host the guest fails to calibrate it.
    let tsc = (accelerator == "tcg").then(qemu::tsc::kernel_parameter);
    let line = microagent_vmm::boot::CommandLine::new(false)
        .with_extra(Some("reboot=t"))
        .with_extra(tsc.flatten().as_deref());
    let mut command = Command::new(tool::find("qemu-system-x86_64")?);
    command
        .args(["-no-user-config", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-cpu", "max"])
        .arg("-M")
        .arg(format!(
            "microvm,accel={accelerator},acpi=off,x-option-roms=off,rtc=off"
        ))
        .args(["-m", &format!("{MEMORY_MIB}M"), "-smp", "1"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initramfs)
        .args(["-append", &line.text()])
        .arg("-drive")
        .arg(format!(
            "if=none,id=disk,format=raw,file={}",
            disk.display()
        ))
        .args(["-device", "virtio-blk-device,drive=disk"]);
    let output = tool::output(&mut command)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}
