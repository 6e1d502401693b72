//! QEMU, and the conversation with what runs in it.

use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::processor::{self, Processor};
use super::{Kernel, Machine, Report, Step, protocol, stalled};
use crate::error::tail;
use crate::scoped_process::ScopedProcess;
use crate::write_log::SECTOR;
use crate::{Error, tool};

pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// AMD-V with nested paging, and no fast string instructions: the deterministic clock counts each
/// iteration of a `rep` instruction, so with ERMS (`rep movsb`, `rep stosb`) copying and clearing
/// memory would cost an instruction a byte, ten to twenty times what it does on hardware. Without
/// it Linux and glibc use `rep movsq` and `rep stosq`, 8 bytes an instruction.
const PROCESSOR: &str = "max,+svm,+npt,-erms,-fsrm";

/// The lab's PID 1.
pub(crate) const INIT: &str = include_str!("init.sh");

/// How much of the console is kept, in bytes.
const CONSOLE_LIMIT: usize = 64 << 10;

/// How often a lab that stalls is booted.
const BOOTS: u32 = 3;

/// How often the heartbeat is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Boots and converses, to the end or the deadline.
///
/// QEMU's emulation of nested virtualisation sometimes stalls a kernel permanently: the lab's own
/// (see processor.rs), or the guest's, which receives an interrupt a second time while it handles
/// the first (`helper_vmrun` leaves it in `exception_index`, and if the emulator's loop is left
/// before the guest's next exit, it is delivered from there). No process in the lab can cause that,
/// so it is not a test result, and the lab is booted again. With the deterministic clock the next
/// boot would be identical, so it gets another kernel command line.
pub(crate) fn run(
    machine: &Machine,
    kernel: &Kernel,
    initramfs: &File,
    steps: &[Step],
) -> Result<Report, Error> {
    let processor = processor::reserve()?;
    let mut boot = 1;
    loop {
        let result = run_once(machine, kernel, initramfs, steps, &processor, boot);
        let has_stalled = match &result {
            Err(Error::LabStalled { .. }) => true,
            Err(Error::Timeout { .. }) => machine.deterministic_clock,
            _ => false,
        };
        if !has_stalled || boot == BOOTS {
            return result;
        }
        boot += 1;
    }
}

fn run_once(
    machine: &Machine,
    kernel: &Kernel,
    initramfs: &File,
    steps: &[Step],
    processor: &Processor,
    boot: u32,
) -> Result<Report, Error> {
    let console = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    let beats = tempfile::NamedTempFile::new().map_err(Error::file(std::env::temp_dir()))?;
    let sockets = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let monitor = sockets.path().join("monitor");
    let mut command = command(machine, kernel, initramfs, console.path(), processor, boot)?;
    if !machine.deterministic_clock {
        // The third port's usual interrupt line is that of the first, the console.
        command
            .arg("-chardev")
            .arg(format!("file,id=beats,path={}", beats.path().display()))
            .args(["-device", "isa-serial,chardev=beats,iobase=0x3e8,irq=5"])
            .arg("-monitor")
            .arg(format!("unix:{},server=on,wait=off", monitor.display()));
    }
    let mut qemu = ScopedProcess::start(&command, Stdio::piped(), Stdio::piped())?;
    let (Some(stdout), Some(mut stderr)) = (qemu.stdout(), qemu.stderr()) else {
        unreachable!("both are piped");
    };

    let (done, answer) = mpsc::channel();
    let conversation = {
        let steps = steps.to_vec();
        thread::spawn(move || {
            let result = protocol::read(&mut BufReader::new(stdout), &steps);
            let _ = done.send(result);
        })
    };
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        let _ = std::io::copy(&mut stderr, &mut text);
        text
    });
    let begun = Instant::now();
    let (mut count, mut last) = (0, begun);
    let mut registers = String::new();
    let result = loop {
        match answer.recv_timeout(CHECK_INTERVAL) {
            Err(RecvTimeoutError::Timeout) if begun.elapsed() < machine.deadline => {}
            result => break Some(result),
        }
        let now = beats.as_file().metadata().map_or(0, |file| file.len());
        if now != count {
            (count, last) = (now, Instant::now());
        } else if count > 0 && last.elapsed() > machine.silence {
            registers = stalled::registers(&monitor);
            break None;
        }
    };
    // Nothing is left to be heard: powering off would only take time.
    qemu.kill();
    let _ = conversation.join();
    let errors = errors.join().unwrap_or_default();

    let console = std::fs::read(console.path()).map_err(Error::file(console.path()))?;
    let console = tail(&console, CONSOLE_LIMIT);
    match result {
        None => Err(Error::LabStalled {
            limit: machine.silence,
            seen: tail(console.as_bytes(), 3000),
            processors: registers,
        }),
        Some(Ok(Ok(steps))) => Ok(Report { steps, console }),
        Some(Ok(Err(error))) => Err(Error::Lab {
            what: format!("{error} {}", tail(&errors, 1000)),
            console: tail(console.as_bytes(), 3000),
        }),
        Some(Err(_)) => Err(Error::Timeout {
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
    processor: &Processor,
    boot: u32,
) -> Result<Command, Error> {
    let mut command = Command::new(tool::find("taskset")?);
    command
        .arg("-c")
        .arg(processor.number.to_string())
        .arg(tool::find(QEMU)?)
        .args([
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-M", "q35,accel=tcg", "-cpu", PROCESSOR])
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
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet reboot=t panic=-1 lab.boot={boot}"
        ))
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
    if let Some(recorded) = &machine.recorded {
        // Each boot begins with the same disk and an empty log.
        let used = recorded.image.with_extension("used");
        let copy = [recorded.image.as_os_str(), used.as_os_str()];
        tool::run("cp", [&["--sparse=always".as_ref()][..], &copy].concat())?;
        File::create(&recorded.log).map_err(Error::file(&recorded.log))?;
        for (name, path) in [("written", &used), ("log", &recorded.log)] {
            let node = format!("driver=file,node-name={name},filename={}", path.display());
            command.args(["-blockdev", &node]);
        }
        command
            .arg("-blockdev")
            .arg(format!(
                "driver=blklogwrites,node-name=disk,file=written,log=log,log-sector-size={SECTOR}"
            ))
            .args(["-device", "virtio-blk-pci,drive=disk"]);
    }
    Ok(command)
}
