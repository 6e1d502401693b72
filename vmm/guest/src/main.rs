//! The guest agent: PID 1 of every VM.
//!
//! ```text
//!  kernel ─▶ boot ─▶ report to the host ─▶ accept sessions ─┬▶ settle      before the VM is saved
//!                                                           ├▶ configure   identity, root
//!                                                           ├▶ exec        one command
//!                                                           ├▶ files       trees of files
//!                                                           ├▶ resume      a new identity
//!                                                           └▶ shutdown    ─▶ power off
//! ```
//!
//! - [`boot`]: from the start of PID 1 to accepting sessions, with [`modules`], [`uevent`] and
//!   [`vsock`].
//! - [`agent`]: sessions, with one thread and one request each.
//! - [`configure`]: configures the VM; [`root`] mounts the image's file system and switches to it,
//!   [`disks`] mounts further disks, [`network`] brings up the loopback interface.
//! - [`module_disk`] provides the modules of the kernel, which requests them from [`modprobe`]:
//!   this program, in a process that the kernel starts.
//! - [`exec`]: runs one command as a [`user`] of the image and forwards its standard streams.
//! - [`files`]: reads and writes trees of files.
//! - [`dial`]: connects a session to a TCP server of the guest.
//! - [`namespaces`]: where commands run, apart from the agent; [`reaper`] is the first process of
//!   one of them.
//! - [`cgroup`]: the groups of commands, with limits; [`oom`]: exhausted memory.
//! - [`spawn`]: starts a process; [`children`]: all that the agent has started.
//! - [`trust`]: certificates that the guest trusts beside those of its image.
//! - [`settle`]: what a VM does before it is saved; [`freezer`] and [`resume`]: what a configured one does before and
//!   when it goes on.
//! - [`console`]: messages of the agent itself; [`power`]: power-off and reset. PID 1 must not
//!   return or panic; both lead to a power-off.
//!
//! The initramfs contains `/init` (this program), empty directories `/dev`, `/proc`, `/sys` and
//! `/newroot`, and the kernel modules listed in `/modules.load`.
//!
//! `microagent-guest serve ROOT` is for tests: it serves the sessions that arrive at the listening
//! socket on its standard input, as in a configured VM whose root is the directory `ROOT`.

mod agent;
mod boot;
mod cgroup;
mod children;
mod configure;
mod console;
mod dial;
mod directory;
mod disks;
mod exec;
mod files;
mod freezer;
mod modprobe;
mod module_disk;
mod modules;
mod namespaces;
mod network;
mod oom;
mod power;
mod reaper;
mod resume;
mod root;
mod settle;
mod spawn;
mod stream;
mod test_server;
mod trust;
mod uevent;
mod user;
mod vsock;

use std::process::ExitCode;

use microagent_proto::agent::RESET_AT_ONCE;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, mode, root] = arguments.as_slice()
        && mode == "serve"
    {
        return test_server::run(root.as_ref());
    }
    if arguments
        .get(1)
        .is_some_and(|mode| mode == reaper::ARGUMENT)
    {
        return reaper::run();
    }
    if std::process::id() != 1 {
        if let Some(name) = modprobe::requested(&arguments) {
            return modprobe::run(name);
        }
        console::log("microagent-guest runs only as the first process (PID 1) of a microVM");
        return ExitCode::from(2);
    }
    if arguments.get(1).is_some_and(|mode| mode == RESET_AT_ONCE) {
        power::reset();
    }
    power::power_off_on_panic();
    match boot::run() {
        Err(error) => power::power_off_after(&error),
    }
}
