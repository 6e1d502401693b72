//! A running VM: devices made from the configuration, host services, and the engine.

use std::sync::Arc;

use microagent_proto::agent::{GUEST_CID, READY_PORT};
use microagent_proto::control::{Engine, VmConfig, disk_serial};

use super::steps::Steps;
use super::warnings::Warnings;
use super::{Control, Failure, connections, ready};
use crate::console::Console;
use crate::engine::{Device, DeviceKind, EngineError, Launch, RunningVm, kvm, qemu};
use crate::virtio::block::{self, BlockError, Counters};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Services, Vsock, VsockHandle};

/// Why the devices could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum InstanceError {
    #[error(transparent)]
    Disk(#[from] BlockError),
    #[error("cannot create the vsock device")]
    Vsock(#[source] std::io::Error),
}

impl InstanceError {
    pub(super) fn remediation(&self) -> Option<String> {
        match self {
            InstanceError::Disk(error) => error.remediation(),
            InstanceError::Vsock(_) => None,
        }
    }
}

/// A running VM.
#[derive(Debug)]
pub(super) struct Instance {
    pub vm: Box<dyn RunningVm>,
    pub vsock: VsockHandle,
    /// In the order of the configuration.
    pub disks: Vec<Arc<Counters>>,
}

impl Instance {
    /// Kills the VM and leaves the host's file systems, also as a working directory.
    pub(super) fn release(&mut self) {
        self.vm.release();
        // Fails only where `/` may not be entered; the working directory is the caller's then.
        let _ = std::env::set_current_dir("/");
    }

    /// Starts the VM that `config` describes and records each step.
    pub(super) fn start(
        control: &Control,
        config: &VmConfig,
        console: &Console,
        prepared: Option<Result<kvm::Prepared, EngineError>>,
        steps: &Steps,
        warnings: &Warnings,
    ) -> Result<Instance, Failure> {
        let mut devices = Vec::new();
        let mut disks = Vec::new();
        for (index, disk) in config.disks.iter().enumerate() {
            let mut device = block::open(disk, &disk_serial(index)).map_err(InstanceError::from)?;
            device.report_failures(warnings.of_disk(index));
            disks.push(device.counters());
            devices.push(Device {
                kind: DeviceKind::Block,
                device: Box::new(device),
            });
        }
        let mut services = Services::new();
        for &port in &config.listen {
            services = services.with(port, connections::service(control.try_clone()?, port));
        }
        let services = services.with(
            READY_PORT,
            ready::service(control.try_clone()?, steps.clone()),
        );
        let (device, vsock) = Vsock::new(GUEST_CID, services).map_err(InstanceError::Vsock)?;
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
        let step = |name| steps.note(name);
        let vm = match config.engine {
            Engine::Kvm => {
                let prepared = prepared.unwrap_or_else(|| super::prepare(steps))?;
                kvm::start(prepared, launch, step)?
            }
            Engine::Qemu => qemu::start(launch, step)?,
        };
        Ok(Instance { vm, vsock, disks })
    }
}
