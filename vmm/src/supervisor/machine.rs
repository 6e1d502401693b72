//! A VM put together: devices from the configuration, host services, an engine.

use microagent_proto::agent::{GUEST_CID, READY_PORT};
use microagent_proto::control::{Engine, FromSupervisor, VmConfig, disk_serial};
use rustix::time::{ClockId, clock_gettime};

use super::{Control, ControlError, Failure, ready};
use crate::console::Console;
use crate::engine::{BootStep, Device, DeviceKind, Launch, RunningVm, kvm, qemu};
use crate::virtio::block::{self, BlockError};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Services, Vsock, VsockHandle};

/// Why the devices could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MachineError {
    #[error(transparent)]
    Disk(#[from] BlockError),
    #[error("cannot create the socket device")]
    Vsock(#[source] std::io::Error),
}

impl MachineError {
    pub(super) fn remediation(&self) -> Option<String> {
        match self {
            MachineError::Disk(error) => error.remediation(),
            MachineError::Vsock(_) => None,
        }
    }
}

/// A VM that runs.
#[derive(Debug)]
pub(super) struct Machine {
    pub vm: Box<dyn RunningVm>,
    pub vsock: VsockHandle,
}

impl Machine {
    /// Starts the VM that `config` describes, reporting each step on `control`.
    pub(super) fn start(
        control: &Control,
        config: &VmConfig,
        console: &Console,
    ) -> Result<Machine, Failure> {
        let mut devices = Vec::new();
        for (index, disk) in config.disks.iter().enumerate() {
            let device = block::open(disk, &disk_serial(index)).map_err(MachineError::from)?;
            devices.push(Device {
                kind: DeviceKind::Block,
                device: Box::new(device),
            });
        }
        let services = Services::new().with(READY_PORT, ready::service(control.try_clone()?));
        let (device, vsock) = Vsock::new(GUEST_CID, services).map_err(MachineError::Vsock)?;
        devices.push(Device {
            kind: DeviceKind::Vsock,
            device: Box::new(device),
        });
        devices.push(Device {
            kind: DeviceKind::Rng,
            device: Box::new(Rng::new()),
        });
        let launch = Launch {
            config,
            devices,
            console: console.clone(),
        };
        let mut told: Result<(), ControlError> = Ok(());
        let step = |step: BootStep| {
            let message = FromSupervisor::Phase {
                name: step.name().into(),
                monotonic_micros: monotonic_micros(),
            };
            if told.is_ok() {
                told = control.send(&message);
            }
        };
        let vm = match config.engine {
            Engine::Kvm => kvm::start(launch, step)?,
            Engine::Qemu => qemu::start(launch, step)?,
        };
        Ok(Machine { vm, vsock })
    }
}

/// Now, in microseconds of `CLOCK_MONOTONIC`.
pub(super) fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock counts up from the host's boot and never is negative.
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}
