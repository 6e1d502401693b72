//! From the start of PID 1 to accepting sessions.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use microagent_proto::agent::{AGENT_PORT, READY_PORT, Ready};
use microagent_proto::frame::{FrameError, write_opening};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::agent::{Agent, State};
use crate::console::log;
use crate::modules::{self, ModuleError};
use crate::network;
use crate::oom::{self, OomKills};
use crate::spawn::KERNEL_MOUNT;
use crate::stream::Stream;
use crate::uevent::Uevents;
use crate::vsock::{Listener, connect_to_host};

/// The time limit for the vsock device to appear.
const VSOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The limit on open files. The kernel's hard limit for PID 1 (4096) is too low for servers.
const OPEN_FILES: u64 = 524_288;

/// This program in the initramfs.
const PROGRAM: &str = "/init";

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A kernel file system cannot be mounted.
    #[error("cannot mount {path}")]
    Mount {
        /// The mount point.
        path: &'static str,
        /// The error from the kernel.
        source: io::Error,
    },
    /// A kernel module cannot be loaded.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// Device events cannot be subscribed to.
    #[error("cannot subscribe to device events")]
    Uevents(#[source] io::Error),
    /// The kernel has no vsock, or the port is in use.
    #[error("cannot listen on vsock port {AGENT_PORT}")]
    Listen(#[source] io::Error),
    /// There is no vsock device, or no listener on the host.
    #[error("cannot connect to vsock port {READY_PORT} of the host")]
    Connect(#[source] io::Error),
    /// The report could not be sent.
    #[error("cannot report to the host")]
    Report(#[from] FrameError),
    /// The kernel's counters cannot be read.
    #[error("cannot open /proc/vmstat")]
    OomKills(#[source] io::Error),
    /// `/proc` cannot be opened.
    #[error("cannot open /proc")]
    Proc(#[source] io::Error),
    /// This program's file is missing.
    #[error("cannot open {PROGRAM}")]
    Program(#[source] io::Error),
}

/// Boots, reports to the host and serves sessions forever.
pub fn run() -> Result<Infallible, BootError> {
    let started = uptime_micros();
    mount_early("/dev", "devtmpfs", MountFlags::NOSUID)?;
    mount_early("/proc", "proc", KERNEL_MOUNT)?;
    mount_early("/sys", "sysfs", KERNEL_MOUNT)?;
    let uevents = Uevents::open().map_err(BootError::Uevents)?;
    modules::load_all()?;
    raise_open_files();
    if let Err(error) = network::bring_loopback_up() {
        log(&format!("cannot bring up the loopback: {error}"));
    }
    if let Err(error) = network::allow_unprivileged() {
        log(&format!(
            "cannot allow unprivileged users ports and pings: {error}"
        ));
    }

    let listener = Listener::bind(AGENT_PORT).map_err(BootError::Listen)?;
    let mut host = connect_when_ready(&uevents).map_err(BootError::Connect)?;
    let oom_kills = OomKills::open().map_err(BootError::OomKills)?;
    let program = std::fs::File::open(PROGRAM).map_err(BootError::Program)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())
        .map_err(|error| BootError::Proc(error.into()))?;
    if let Err(error) = oom::forbid_kill(&proc) {
        log(&format!(
            "cannot be spared when memory is exhausted: {error}"
        ));
    }
    let agent = Arc::new(Agent::new(
        program.into(),
        proc,
        oom_kills,
        State::Unconfigured(uevents),
    ));
    write_opening(
        &mut host,
        &Ready {
            started_micros: started,
            uptime_micros: uptime_micros(),
        },
    )?;
    drop(host);
    agent.accept_forever(|| listener.accept())
}

/// Each session needs about ten descriptors, and commands inherit the hard limit.
fn raise_open_files() {
    let limit = Rlimit {
        current: Some(OPEN_FILES),
        maximum: Some(OPEN_FILES),
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log(&format!("cannot raise the limit on open files: {error}"));
    }
}

/// Mounts a kernel file system with the options that commands are to see.
fn mount_early(path: &'static str, fs_type: &str, flags: MountFlags) -> Result<(), BootError> {
    let mounted = std::fs::create_dir_all(Path::new(path))
        .and_then(|()| Ok(mount(fs_type, path, fs_type, flags, None)?));
    match mounted {
        // EBUSY: the kernel mounts devtmpfs itself if it is configured to.
        Err(error) if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) => {
            Err(BootError::Mount {
                path,
                source: error,
            })
        }
        _ => Ok(()),
    }
}

/// How often to connect. The kernel gives an attempt up after two seconds, in which a busy host may
/// not have answered it.
const CONNECT_ATTEMPTS: usize = 4;

/// Connects as soon as a vsock device exists.
fn connect_when_ready(uevents: &Uevents) -> io::Result<Stream> {
    let timed_out = Some(Errno::TIMEDOUT.raw_os_error());
    let connect = || {
        for _ in 1..CONNECT_ATTEMPTS {
            match connect_to_host(READY_PORT) {
                Err(error) if error.raw_os_error() == timed_out => {}
                done => return done,
            }
        }
        connect_to_host(READY_PORT)
    };
    let attempt = || match connect() {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    };
    uevents
        .wait_for(VSOCK_TIMEOUT, attempt)?
        .ok_or_else(|| Errno::NODEV.into())
}

fn uptime_micros() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000
}
