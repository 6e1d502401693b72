//! The devices of a VM, made from its configuration.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use microagent_proto::agent::{GUEST_CID, READY_PORT};
use microagent_proto::control::{VmConfig, disk_serial};

use super::net::{Interface, NetError};
use super::steps::Steps;
use super::warnings::Warnings;
use super::{Control, ControlError, connections, ready};
use crate::engine::{Device, DeviceKind};
use crate::virtio::block::{self, BlockError, Counters};
use crate::virtio::rng::Rng;
use crate::virtio::vsock::{Services, Vsock, VsockHandle};

/// Why the devices could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum DevicesError {
    #[error(transparent)]
    Disk(#[from] BlockError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("cannot create the vsock device")]
    Vsock(#[source] std::io::Error),
    #[error(transparent)]
    Control(ControlError),
}

impl DevicesError {
    pub(super) fn remediation(&self) -> Option<String> {
        match self {
            DevicesError::Disk(error) => error.remediation(),
            DevicesError::Net(_) | DevicesError::Vsock(_) | DevicesError::Control(_) => None,
        }
    }
}

/// Devices, and what the supervisor keeps of them while the engine has them.
#[derive(Debug)]
pub(super) struct Devices {
    /// Disks first, then vsock, entropy and network.
    pub devices: Vec<Device>,
    pub vsock: VsockHandle,
    /// In the order of the configuration.
    pub disks: Vec<Arc<Counters>>,
    /// The sizes of the disks, in sectors.
    pub disk_sectors: Vec<u64>,
    pub net: Option<Interface>,
}

impl Devices {
    /// Opens the disks, and makes the devices. `net` is the backend of the network interface.
    pub(super) fn open(
        control: &Control,
        config: &VmConfig,
        net: Option<OwnedFd>,
        steps: &Steps,
        warnings: &Warnings,
    ) -> Result<Devices, DevicesError> {
        let mut devices = Vec::new();
        let (mut disks, mut disk_sectors) = (Vec::new(), Vec::new());
        for (index, disk) in config.disks.iter().enumerate() {
            let mut device = block::open(disk, &disk_serial(index))?;
            device.report_failures(warnings.of_disk(index));
            disks.push(device.counters());
            disk_sectors.push(device.sectors());
            devices.push(Device {
                kind: DeviceKind::Block,
                device: Box::new(device),
            });
        }
        let mut services = Services::new();
        for &port in &config.listen {
            let control = control.try_clone().map_err(DevicesError::Control)?;
            services = services.with(port, connections::service(control, port));
        }
        let control = control.try_clone().map_err(DevicesError::Control)?;
        let services = services.with(READY_PORT, ready::service(control, steps.clone()));
        let (mut device, vsock) = Vsock::new(GUEST_CID, services).map_err(DevicesError::Vsock)?;
        if config.saved.as_ref().is_some_and(|saved| saved.in_use) {
            device.announce_reset().map_err(DevicesError::Vsock)?;
        }
        devices.push(Device {
            kind: DeviceKind::Vsock,
            device: Box::new(device),
        });
        devices.push(Device {
            kind: DeviceKind::Rng,
            device: Box::new(Rng::new()),
        });
        let mut interface = None;
        if let (Some(config), Some(backend)) = (&config.net, net) {
            let (device, handle) = Interface::open(config, backend)?;
            devices.push(Device {
                kind: DeviceKind::Net,
                device: Box::new(device),
            });
            interface = Some(handle);
        }
        Ok(Devices {
            devices,
            vsock,
            disks,
            disk_sectors,
            net: interface,
        })
    }
}
