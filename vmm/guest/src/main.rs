//! The guest agent: PID 1 of every VM.
//!
//! ```text
//!  kernel ─▶ boot ─▶ report to the host ─▶ accept sessions ─┬▶ configure   identity, root
//!                                                           ├▶ exec        one command
//!                                                           └▶ shutdown    ─▶ power off
//! ```
//!
//! - [`boot`]: from the kernel's hand-over to accepting sessions; [`modules`], [`uevent`] and
//!   [`vsock`] are its parts.
//! - [`agent`]: one thread a session, one request a session.
//! - [`configure`]: makes an anonymous VM into a certain one; [`root`] mounts and switches to the
//!   image's file system, [`disks`] mounts others in it, [`network`] brings up the loopback.
//! - [`exec`]: runs one command as an image's [`user`] and carries its streams.
//! - [`children`]: the only place that reaps.
//! - [`power`]: every way to the end. PID 1 must not return or panic: both end in a power-off.
//!
//! The initramfs it is started from holds `/init` (this program), empty `/dev`, `/proc`, `/sys`
//! and `/newroot`, and the kernel modules that `/modules.load` lists.
//!
//! `microagent-guest serve-session ROOT` is for tests: it takes its standard input for one session
//! of a VM that is configured with the directory `ROOT` as its root.

mod agent;
mod boot;
mod children;
mod configure;
mod disks;
mod exec;
mod modules;
mod network;
mod power;
mod root;
mod stream;
mod uevent;
mod user;
mod vsock;

use std::process::ExitCode;

use microagent_proto::agent::RESET_AT_ONCE;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, mode, root] = arguments.as_slice()
        && mode == "serve-session"
    {
        return agent::serve_session_on_stdin(root.as_ref());
    }
    if std::process::id() != 1 {
        power::log("microagent-guest is the first process of a microVM; it cannot be run by hand");
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
