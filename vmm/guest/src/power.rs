//! Every way to the end of a VM.
//!
//! A kernel whose PID 1 is gone panics, so nothing here returns to a caller that could exit.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use microagent_proto::error_chain;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};

use crate::children::Children;

/// How long processes have between SIGTERM and SIGKILL when the VM is shut down.
const GRACE: Duration = Duration::from_secs(2);

/// How long killed processes have to be gone. One that is stuck in the kernel must not keep the
/// VM alive.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Writes one line to the console. Failures are ignored: there is nowhere else to say it.
pub fn log(line: &str) {
    let _ = writeln!(std::io::stderr(), "microagent-guest: {line}");
}

/// Makes a panic of any thread end in a power-off, with its message on the console, instead of a
/// kernel panic.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        log(&format!("internal error: {info}"));
        power_off();
    }));
}

/// Says why on the console and powers off.
pub fn power_off_after(error: &dyn Error) -> ! {
    log(&error_chain(error));
    power_off()
}

/// Ends every process, writes everything to disk and powers off. `disks` are mounted besides the
/// root, in this order.
pub fn shut_down(children: &Children, disks: &[PathBuf]) -> ! {
    signal_all(Signal::TERM);
    if !children.wait_for_none(Instant::now() + GRACE) {
        signal_all(Signal::KILL);
        children.wait_for_none(Instant::now() + KILL_WAIT);
    }
    rustix::fs::sync();
    for disk in disks.iter().rev() {
        // What is mounted on it may keep it from going.
        if unmount(disk, UnmountFlags::empty()).is_err() {
            make_read_only(disk);
        }
    }
    make_read_only(Path::new("/"));
    power_off()
}

/// A read-only file system has nothing left to replay: the next mount finds it clean. It fails
/// where something still writes; the sync has made that safe, only not clean.
fn make_read_only(mounted: &Path) {
    if let Err(error) = mount_remount(mounted, MountFlags::RDONLY, "") {
        let mounted = mounted.display();
        log(&format!("cannot make {mounted} read-only: {error}"));
    }
}

/// Powers off now. Without ACPI the kernel has no way to power off and would halt for ever, so the
/// machine is reset instead, which ends a VM as well.
pub fn power_off() -> ! {
    rustix::fs::sync();
    if Path::new("/sys/firmware/acpi").exists() {
        let _ = reboot(RebootCommand::PowerOff);
    }
    let _ = reboot(RebootCommand::Restart);
    // Only a process without the right to reboot gets here; PID 1 always has it.
    loop {
        std::thread::park();
    }
}

/// Resets now, as any monitor understands it.
pub fn reset() -> ! {
    let _ = reboot(RebootCommand::Restart);
    power_off()
}

/// Signals every process but this one. Only PID 1 may: for others it would be the whole session.
fn signal_all(signal: Signal) {
    if rustix::process::getpid() == Pid::INIT {
        // kill(-1): rustix names it the group of PID 1.
        let _ = rustix::process::kill_process_group(Pid::INIT, signal);
    }
}
