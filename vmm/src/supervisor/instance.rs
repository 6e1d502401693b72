//! A running VM: its devices and the engine, booted or restored.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use microagent_proto::control::{Engine, FromSupervisor, Pin, SavedVm, StepName, VmConfig};
use microagent_proto::error_chain;

use super::devices::Devices;
use super::net::{Interface, NetError};
use super::refusals::Refusals;
use super::steps::Steps;
use super::warnings::Warnings;
use super::{Control, Failure, saved};
use crate::console::Console;
use crate::engine::{EngineError, Launch, RunningVm, kvm, qemu};
use crate::virtio::block::Counters;
use crate::virtio::vsock::VsockHandle;

/// A running VM.
#[derive(Debug)]
pub(super) struct Instance {
    pub vm: Box<dyn RunningVm>,
    pub vsock: VsockHandle,
    /// In the order of the configuration.
    pub disks: Vec<Arc<Counters>>,
    pub net: Option<Interface>,
    /// What the rules of its network interface refuse, if it has any.
    pub refusals: Option<Refusals>,
    /// Where the pages are recorded that it has written, if it was restored.
    pages: Option<PathBuf>,
}

/// What a VM is started with.
pub(super) struct Given<'a> {
    pub config: &'a VmConfig,
    /// The backend of its network interface.
    pub net: Option<OwnedFd>,
    pub console: &'a Console,
    pub prepared: Option<Result<kvm::Prepared, EngineError>>,
}

impl Instance {
    /// Kills the VM and leaves the host's file systems, also as a working directory.
    pub(super) fn release(&mut self) {
        if let Some(pages) = self.pages.take() {
            saved::record_pages(&*self.vm, &pages);
        }
        self.vm.release();
        // Fails only where `/` may not be entered; the working directory is the caller's then.
        let _ = std::env::set_current_dir("/");
    }

    /// Reports what the rules of its network interface have refused since the last report.
    pub(super) fn report_last_refusals(&mut self, control: &Control) {
        if let Some(refusals) = &mut self.refusals {
            refusals.report_last(control);
        }
    }

    /// Gives the network interface another backend.
    pub(super) fn attach_net(&self, backend: OwnedFd) -> Result<(), NetError> {
        self.net.as_ref().ok_or(NetError::None)?.attach(backend)
    }

    /// Allows new connections to the addresses of a name.
    pub(super) fn pin(&self, pin: &Pin) -> Result<(), NetError> {
        self.net.as_ref().ok_or(NetError::None)?.pin(pin)
    }

    /// Starts a VM and records each step. If a saved one cannot be restored, the caller is told why, and
    /// the VM boots.
    pub(super) fn start(
        control: &Control,
        mut given: Given<'_>,
        steps: &Steps,
        warnings: &Warnings,
    ) -> Result<Instance, Failure> {
        if let Some(saved) = &given.config.saved {
            let net = given.net.as_ref().map(OwnedFd::try_clone).transpose();
            let first = Given {
                net: net.map_err(|error| Failure::Control(error.into()))?,
                prepared: given.prepared.take(),
                ..given
            };
            match Instance::restore(control, first, saved, steps, warnings) {
                Err(Failure::Engine(error)) if !saved.in_use => {
                    steps.go_back_to(StepName::StartReceived);
                    let message = error_chain(&error);
                    control.send(&FromSupervisor::NotRestored { message })?;
                }
                restored => return restored,
            }
        }
        Instance::create(control, given, steps, warnings, |launch, prepared| {
            let step = |name| steps.note(name);
            match launch.config.engine {
                Engine::Kvm => kvm::start(prepared()?, launch, step),
                Engine::Qemu => qemu::start(launch, step),
            }
        })
        .map(|(instance, _)| instance)
    }

    /// Lets the VM go on that was saved to `saved`, and tells the caller.
    fn restore(
        control: &Control,
        given: Given<'_>,
        saved: &SavedVm,
        steps: &Steps,
        warnings: &Warnings,
    ) -> Result<Instance, Failure> {
        if given.config.engine != Engine::Kvm {
            return Err(EngineError::CannotSave(given.config.engine.name()).into());
        }
        let (memory, state) = saved::open(&saved.file, given.config.memory_mib << 20)?;
        let pages = saved::pages(&saved.pages);
        let (mut instance, disk_sectors) =
            Instance::create(control, given, steps, warnings, |launch, prepared| {
                let step = |name| steps.note(name);
                kvm::restore(prepared()?, launch, &state, memory, &pages, step)
            })?;
        instance.pages = Some(saved.pages.clone());
        control.send(&FromSupervisor::Restored {
            steps: steps.all(),
            disk_sectors,
        })?;
        Ok(instance)
    }

    /// Makes the devices, and the VM with `engine`, which may ask for what was prepared. Returns the sizes
    /// of the disks, too.
    fn create(
        control: &Control,
        given: Given<'_>,
        steps: &Steps,
        warnings: &Warnings,
        engine: impl FnOnce(
            Launch<'_>,
            &mut dyn FnMut() -> Result<kvm::Prepared, EngineError>,
        ) -> Result<Box<dyn RunningVm>, EngineError>,
    ) -> Result<(Instance, Vec<u64>), Failure> {
        let Given {
            config,
            net,
            console,
            mut prepared,
        } = given;
        let devices = Devices::open(control, config, net, steps, warnings)?;
        let launch = Launch {
            config,
            devices: devices.devices,
            console: console.clone(),
        };
        let mut prepared = || prepared.take().unwrap_or_else(|| super::prepare(steps));
        let instance = Instance {
            vm: engine(launch, &mut prepared)?,
            vsock: devices.vsock,
            disks: devices.disks,
            refusals: devices.net.as_ref().and_then(Interface::refusals),
            net: devices.net,
            pages: None,
        };
        Ok((instance, devices.disk_sectors))
    }
}
