//! One boot with one of the compared monitors.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use microagent_proto::control::Engine;
use microagent_tests::tool;
use microagent_vmm::engine::{Device, DeviceKind};
use microagent_vmm::virtio::block::{Block, Raw};

use super::guest::rates;
use crate::Error;
use crate::guest::Guest;

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

/// The guest's console output with one of our engines.
fn ours(engine: Engine, guest: &Guest, disk: &Path) -> Result<String, Error> {
    let file = OpenOptions::new().read(true).write(true).open(disk);
    let file: File = file.map_err(Error::file(disk))?;
    let len = file.metadata().map_err(Error::file(disk))?.len();
    let device = Device {
        kind: DeviceKind::Block,
        device: Box::new(Block::new(Box::new(Raw::new(file, len, false)), "disk")),
    };
    guest.boot(engine, device, "disk")
}

/// The guest's console output with QEMU alone. Its disk is configured like ours: a raw file
/// through the host's page cache.
fn theirs(accelerator: &str, guest: &Guest, disk: &Path) -> Result<String, Error> {
    let mut command = guest.qemu(accelerator)?;
    command
        .args(["-serial", "stdio"])
        .arg("-drive")
        .arg(format!(
            "if=none,id=disk,format=raw,file={}",
            disk.display()
        ))
        .args(["-device", "virtio-blk-device,drive=disk"]);
    let output = tool::output(&mut command)?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}
