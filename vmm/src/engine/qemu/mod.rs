//! QEMU's `microvm` machine under TCG, with our devices over vhost-user.
//!
//! ```text
//!  this process                                   QEMU
//!  ┌ vhost_user::Server ┐ ── socket, memfd ──  vhost-user-blk, vhost-user-vsock
//!  ├ process thread ────┤ ── QMP, stderr ────  reason of the exit
//!  └ console thread ────┘ ── socket ─────────  serial port
//! ```
//! QEMU supplies CPUs, interrupt controllers and its own entropy device. It opens no disks and has
//! no network access. It is killed when the thread that started it ends ([`spawn::spawn`]).

mod command;
mod diagnosis;
mod locate;
mod process;
mod qmp;
mod sandbox;
mod spawn;
pub mod tsc;

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use microagent_proto::control::StopReason;
use rustix::process::{Resource, getrlimit};

pub use self::command::MAX_DEVICES;
use self::command::{Channels, FrontEnd};
pub use self::locate::{INSTALL_QEMU, QemuInfo, describe, locate};
use self::process::QemuProcess;
use self::qmp::{Message, Monitor, Response};
use super::{DeviceKind, EngineError, Launch, RunningVm, StepName};
use crate::console::Console;
use crate::vhost_user::{self, Server};
use crate::virtio::net;

/// How long QEMU may take to build its machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of descriptors of a VM without disks, in this process, which has more of them than
/// QEMU: 37, and some for streams.
const OPEN_FILES: u64 = 48;
/// The number of descriptors for a disk: 14.
const OPEN_FILES_PER_DISK: u64 = 16;

/// A VM that QEMU runs.
#[derive(Debug)]
pub struct QemuVm {
    // Drop order: QEMU, then the devices that it uses.
    process: QemuProcess,
    console: Option<JoinHandle<()>>,
    servers: Vec<Server>,
}

/// Boots a VM in QEMU. Returns when its CPUs run. The calling thread must live as long as the VM.
///
/// # Errors
/// [`EngineError`]: QEMU is missing, or refuses the configuration.
pub fn start(
    launch: Launch<'_>,
    mut step: impl FnMut(StepName),
) -> Result<Box<dyn RunningVm>, EngineError> {
    let Launch {
        config,
        devices,
        console,
    } = launch;
    if devices.len() > MAX_DEVICES {
        return Err(EngineError::Qemu(format!(
            "the microvm machine supports {MAX_DEVICES} devices, this VM has {}",
            devices.len()
        )));
    }
    check_open_files(config.disks.len())?;
    check_proc()?;
    let program = locate()?;
    let sandbox = sandbox::Check::start(&program).map_err(failed("start QEMU"))?;
    let mut inherited = Vec::new();
    let mut pass = |end: OwnedFd| {
        let number = end.as_raw_fd();
        inherited.push(end);
        number
    };
    let pair = || UnixStream::pair().map_err(failed("create a socket pair"));
    let (monitor, theirs) = pair()?;
    let monitor_fd = pass(theirs.into());
    let (serial, theirs) = pair()?;
    let channels = Channels {
        monitor: monitor_fd,
        console: pass(theirs.into()),
    };

    let mut servers = Vec::new();
    let mut front_ends = Vec::new();
    for (index, device) in devices.into_iter().enumerate() {
        let name = command::socket_name(index);
        let mut serve = |device| -> Result<i32, EngineError> {
            let (server, theirs) = vhost_user::serve(&name, device, &config.run_dir)?;
            servers.push(server);
            Ok(pass(theirs.into()))
        };
        front_ends.push(match device.kind {
            DeviceKind::Block => FrontEnd::Block(serve(device.device)?),
            DeviceKind::Vsock => FrontEnd::Vsock(serve(device.device)?),
            // QEMU's device uses the same entropy source and needs no connection to this process.
            DeviceKind::Rng => FrontEnd::Rng,
            DeviceKind::Net => {
                let net_config = net::StaticConfig::read(&*device.device);
                let (server, dir) =
                    vhost_user::serve_at_path(&name, device.device, &config.run_dir)?;
                servers.push(server);
                FrontEnd::Net {
                    dir: pass(dir),
                    config: net_config,
                }
            }
        });
    }

    let mut arguments = command::arguments(config, &front_ends, channels);
    if sandbox.passes() {
        arguments.extend(sandbox::ARGUMENTS.map(Into::into));
    }
    let child = spawn::spawn(&program, arguments, inherited).map_err(failed("start QEMU"))?;
    let mut process = QemuProcess::new(child)?;
    step(StepName::Created);
    let console = start_thread("qemu-console", move || copy(serial, console))?;
    let monitor = wait_until_running(monitor, &mut process)?;
    step(StepName::Loaded);
    step(StepName::Running);
    process.watch(monitor)?;
    Ok(Box::new(QemuVm {
        process,
        console: Some(console),
        servers,
    }))
}

/// Refuses a VM that would run out of descriptors: one that does not arrive with its vhost-user
/// message leaves a device that never responds.
fn check_open_files(disks: usize) -> Result<(), EngineError> {
    let needed = OPEN_FILES + OPEN_FILES_PER_DISK * disks as u64;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => Err(EngineError::Missing {
            what: format!("this VM needs {needed} open files, the limit is {limit}"),
            remediation: "raise the limit: ulimit -n 1024".into(),
        }),
        _ => Ok(()),
    }
}

/// Refuses a host where the frequency of the guest's clock cannot be found ([`tsc`]).
fn check_proc() -> Result<(), EngineError> {
    match Path::new("/proc/self").exists() {
        true => Ok(()),
        false => Err(EngineError::Missing {
            what: "engine qemu needs /proc, which is not mounted".into(),
            remediation: "mount it: mount -t proc proc /proc".into(),
        }),
    }
}

/// Waits until the machine runs. Returns QEMU's error if it exits before.
fn wait_until_running(
    stream: UnixStream,
    process: &mut QemuProcess,
) -> Result<Monitor, EngineError> {
    let wait = || -> io::Result<Option<Monitor>> {
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        let mut monitor = Monitor::new(stream)?;
        loop {
            match monitor.next()? {
                Message::Response(Response { result: Ok(_), .. }) => break,
                Message::End => return Ok(None),
                Message::Response(_) | Message::Other | Message::Shutdown(_) => {}
            }
        }
        monitor.stream().set_read_timeout(None)?;
        Ok(Some(monitor))
    };
    match wait() {
        Ok(Some(monitor)) => Ok(monitor),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(EngineError::Qemu(format!(
            "did not start its machine within {} s",
            START_TIMEOUT.as_secs()
        ))),
        // It has exited, or closed the connection because it is about to exit.
        Ok(None) | Err(_) => Err(process.failure()),
    }
}

/// Copies the serial port's output until QEMU closes it.
fn copy(mut serial: UnixStream, mut console: Console) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = serial.read(&mut bytes) {
        // Writing to the console does not fail.
        let _ = console.write_all(&bytes[..n]);
    }
}

impl RunningVm for QemuVm {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.process.ended_fd()
    }

    fn end(&mut self) -> Option<Result<StopReason, EngineError>> {
        let end = self.process.end()?;
        // QEMU has exited, so the thread reads the remaining output and ends.
        if let Some(console) = self.console.take() {
            let _ = console.join();
        }
        Some(end)
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    fn release(&mut self) {
        // QEMU maps the initramfs for as long as it lives.
        self.process.stop();
        self.servers.clear();
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.process.suspend().map_err(failed("stop QEMU"))
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.process.resume().map_err(failed("continue QEMU"))
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.process.pid()]
    }

    fn save(&mut self, _memory: &std::fs::File) -> Result<Vec<u8>, EngineError> {
        Err(EngineError::CannotSave("qemu"))
    }

    fn written_pages(&self) -> Option<Vec<std::ops::Range<u64>>> {
        None
    }

    fn diagnose(&mut self) -> String {
        let devices: Vec<String> = self.servers.iter().flat_map(Server::describe).collect();
        diagnosis::report(&devices, &mut self.process)
    }
}

fn start_thread(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, EngineError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(failed("start a thread"))
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |source| EngineError::Io { operation, source }
}
