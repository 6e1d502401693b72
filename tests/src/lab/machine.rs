//! QEMU, and the conversation with what runs in it.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::{Kernel, Machine, Report, Step, protocol};
use crate::error::tail;
use crate::watched::Watched;
use crate::{Error, tool};

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// The lab's PID 1.
pub(crate) const INIT: &str = include_str!("init.sh");

/// How much of the console is kept, in bytes.
const CONSOLE_LIMIT: usize = 64 << 10;

/// Boots and converses, to the end or the deadline.
pub(crate) fn run(
    machine: &Machine,
    kernel: &Kernel,
    initramfs: &File,
    steps: &[Step],
) -> Result<Report, Error> {
    let console = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    let command = command(machine, kernel, initramfs, console.path())?;
    let mut qemu = Watched::start(&command, Stdio::piped(), Stdio::piped())?;
    let (Some(stdout), Some(mut stderr)) = (qemu.stdout(), qemu.stderr()) else {
        unreachable!("both were asked for");
    };

    let (done, answer) = mpsc::channel();
    let conversation = {
        let steps = steps.to_vec();
        thread::spawn(move || {
            let result = protocol::read(&mut BufReader::new(stdout), &steps);
            let _ = done.send(result);
        })
    };
    let complaints = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::copy(&mut stderr, &mut text);
        text
    });
    let result = answer.recv_timeout(machine.deadline);
    // Nothing is left to be heard: powering off would only take time.
    qemu.kill();
    let _ = conversation.join();
    let complaints = complaints.join().unwrap_or_default();

    let console = std::fs::read(console.path()).map_err(Error::file(console.path()))?;
    let console = tail(&console, CONSOLE_LIMIT);
    match result {
        Ok(Ok(steps)) => Ok(Report { steps, console }),
        Ok(Err(error)) => Err(Error::Lab {
            what: format!("{error} {}", tail(&complaints, 1000)),
            console: tail(console.as_bytes(), 3000),
        }),
        Err(_) => Err(Error::Late {
            what: "the end of the lab's last step".to_owned(),
            limit: machine.deadline,
            seen: tail(console.as_bytes(), 3000),
        }),
    }
}

fn command(
    machine: &Machine,
    kernel: &Kernel,
    initramfs: &File,
    console: &std::path::Path,
) -> Result<Command, Error> {
    let mut command = Command::new(tool::find(QEMU)?);
    command
        .args([
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-M", "q35,accel=tcg", "-cpu", "max,+svm,+npt"])
        .args(["-m", &machine.memory_mib.to_string()])
        .args(["-smp", &machine.cpus.to_string()])
        .arg("-kernel")
        .arg(&kernel.image)
        // The archive has no name any more; this process keeps it open.
        .arg("-initrd")
        .arg(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            initramfs.as_raw_fd()
        ))
        .args(["-append", "console=ttyS0 quiet reboot=t panic=-1"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"]);
    if machine.deterministic_clock {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    if let Some(disk) = &machine.disk {
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id=disk,format=raw,readonly=on,file={}",
                disk.display()
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    Ok(command)
}
