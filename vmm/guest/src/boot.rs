//! From the start of PID 1 to accepting sessions.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use microagent_proto::agent::{AGENT_PORT, READY_PORT, Ready};
use microagent_proto::frame::{FrameError, write_opening};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::agent::Agent;
use crate::modules::{self, ModuleError};
use crate::network;
use crate::power::log;
use crate::stream::Stream;
use crate::uevent::Uevents;
use crate::vsock::{Listener, connect_to_host};

/// The time limit for the vsock device to appear.
const VSOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits on open files for commands. The soft limit is safe for programs that use `select`;
/// others can raise it. The kernel's hard limit for PID 1 (4096) is too low for servers.
const OPEN_FILES: Rlimit = Rlimit {
    current: Some(1024),
    maximum: Some(524_288),
};

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
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

/// Boots, reports to the host and serves sessions forever.
pub fn run() -> Result<Infallible, BootError> {
    let started = uptime_micros();
    mount_early("/dev", "devtmpfs")?;
    mount_early("/proc", "proc")?;
    mount_early("/sys", "sysfs")?;
    let uevents = Uevents::open().map_err(BootError::Uevents)?;
    modules::load_all()?;
    if let Err(error) = setrlimit(Resource::Nofile, OPEN_FILES) {
        log(&format!("cannot raise the limit on open files: {error}"));
    }
    if let Err(error) = network::bring_loopback_up() {
        log(&format!("cannot bring up the loopback: {error}"));
    }

    let listener = Listener::bind(AGENT_PORT).map_err(BootError::Listen)?;
    let mut host = connect_when_ready(&uevents).map_err(BootError::Connect)?;
    let agent = Arc::new(Agent::new(uevents));
    agent.start_reaping().map_err(BootError::Thread)?;
    write_opening(
        &mut host,
        &Ready {
            started_micros: started,
            uptime_micros: uptime_micros(),
        },
    )?;
    drop(host);
    loop {
        match listener.accept() {
            Ok(Some(stream)) => {
                if let Err(error) = agent.start_session(stream) {
                    log(&format!("cannot start a session: {error}"));
                }
            }
            Ok(None) => {}
            // The connection was closed before it was accepted.
            Err(error) => log(&format!("cannot accept a session: {error}")),
        }
    }
}

fn mount_early(path: &'static str, fs_type: &str) -> Result<(), BootError> {
    let mounted = std::fs::create_dir_all(Path::new(path))
        .and_then(|()| Ok(mount(fs_type, path, fs_type, MountFlags::NOSUID, None)?));
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

/// Connects as soon as a vsock device exists.
fn connect_when_ready(uevents: &Uevents) -> io::Result<Stream> {
    let attempt = || match connect_to_host(READY_PORT) {
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
