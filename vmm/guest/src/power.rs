//! Power-off and reset of the VM.
//!
//! The kernel panics when PID 1 exits, so these functions do not return.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use microagent_proto::error_chain;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};

use crate::children::Children;
use crate::console::log;
use crate::namespaces::Namespaces;

/// The time between SIGTERM and SIGKILL when the VM is shut down.
const GRACE: Duration = Duration::from_secs(2);

/// The time limit for killed processes to exit. A process that is stuck in the kernel must not keep
/// the VM running.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// Makes a panic of any thread log its message and power off the VM, instead of panicking the
/// kernel.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        log(&format!("internal error: {info}"));
        power_off();
    }));
}

/// Logs the error and powers off.
pub fn power_off_after(error: &dyn Error) -> ! {
    log(&error_chain(error));
    power_off()
}

/// Ends all processes, syncs, unmounts and powers off. `disks` are the mount points of disks other
/// than the root, in mount order.
pub fn shut_down(children: &Children, namespaces: &Namespaces, disks: &[PathBuf]) -> ! {
    let all_ended = |deadline| {
        let children_ended = children.wait_for_none(deadline);
        namespaces.wait_for_base(deadline) && children_ended
    };
    signal_all(Signal::TERM);
    if !all_ended(Instant::now() + GRACE) {
        signal_all(Signal::KILL);
        all_ended(Instant::now() + KILL_WAIT);
    }
    rustix::fs::sync();
    for disk in disks.iter().rev() {
        // Not only unmounted: that leaves the file system mounted in other mount namespaces.
        make_read_only(disk);
        // Fails if it is busy, for example because of a mount below it.
        let _ = unmount(disk, UnmountFlags::empty());
    }
    make_read_only(Path::new("/"));
    power_off()
}

/// Remounts a file system read-only, so that its next mount needs no journal replay. Fails if a
/// process still has a file open for writing; the data is safe after the sync, but the journal is
/// not clean.
fn make_read_only(mounted: &Path) {
    if let Err(error) = mount_remount(mounted, MountFlags::RDONLY, "") {
        let mounted = mounted.display();
        log(&format!("cannot make {mounted} read-only: {error}"));
    }
}

/// Powers off now. Without ACPI the kernel cannot power off and would halt forever, so the machine
/// is reset instead, which also ends the VM.
pub fn power_off() -> ! {
    rustix::fs::sync();
    if Path::new("/sys/firmware/acpi").exists() {
        let _ = reboot(RebootCommand::PowerOff);
    }
    let _ = reboot(RebootCommand::Restart);
    // Reached only without the permission to reboot, which PID 1 always has.
    loop {
        std::thread::park();
    }
}

/// Resets now, which any monitor supports.
pub fn reset() -> ! {
    let _ = reboot(RebootCommand::Restart);
    power_off()
}

/// Signals all processes except this one. Does nothing unless this process is PID 1: in tests it
/// would signal unrelated processes.
fn signal_all(signal: Signal) {
    if rustix::process::getpid() == Pid::INIT {
        // In rustix, kill(-1) is signalling the group of PID 1.
        let _ = rustix::process::kill_process_group(Pid::INIT, signal);
    }
}
