//! Engine `kvm`: KVM runs the vCPUs, this process does everything else.
//!
//! ```text
//!  supervisor thread        vcpu-0 … vcpu-N            virtio-… (one per device)
//!  start, wait, kill        KVM_RUN, port and MMIO     requests
//!        │                  exits → Bus                     ▲ ioeventfd
//!        └── ended_fd ◀──────── first to exit               └─ queue notifications
//! ```
//!
//! The VM ends when its first vCPU thread exits, for whatever reason.

mod bus;
mod cpuid;
mod gate;
mod memory;
mod msrs;
mod power;
mod registers;
mod vcpu;
mod vm;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use microagent_proto::control::StopReason;

use self::bus::Bus;
use self::gate::Gate;
use self::vcpu::{SIGNAL_INTERVAL, Termination, VcpuThread};
use self::vm::Vm;
use super::{EngineError, Launch, RunningVm, StepName};
use crate::boot::{Boot, CommandLine};

/// What to do if KVM cannot be used or does not run a guest. `doctor` knows more about the cause.
pub(super) const REMEDIATION: &str =
    "check this host with `microagent doctor`, or use `--engine qemu`";

pub(crate) use self::memory::{map_ram, register_ram};
pub(crate) use self::registers::long_mode;
pub use self::vm::Prepared;
pub(crate) use self::vm::{create_vm, open};

/// How long vCPUs may take to stop. They leave the guest at once; a host may be busy.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A VM on KVM.
#[derive(Debug)]
pub struct KvmVm {
    // Drop order: the vCPUs, then the devices they access, then the VM.
    vcpus: Vec<VcpuThread>,
    termination: Arc<Termination>,
    gate: Arc<Gate>,
    /// `None` when released.
    bus: Option<Arc<Bus>>,
    _vm: Vm,
}

/// Boots a prepared VM. Returns when its vCPUs run.
///
/// # Errors
/// [`EngineError`]: KVM is unusable, the kernel cannot be booted, or the host lacks resources.
pub fn start(
    prepared: Prepared,
    launch: Launch<'_>,
    mut step: impl FnMut(StepName),
) -> Result<Box<dyn RunningVm>, EngineError> {
    let config = launch.config;
    let memory_bytes = config.memory_mib << 20;
    let memory = map_ram(memory_bytes)?;
    let boot = Boot {
        kernel: &config.kernel,
        initramfs: config.initramfs.as_deref(),
        command_line: CommandLine::new(config.console_to_stderr)
            .with_extra(config.extra_cmdline.as_deref()),
        memory_bytes,
        cpus: config.cpus,
        virtio_devices: launch.devices.len(),
    };
    for page in boot.sparse_pages()? {
        memory::back_with_small_pages(&memory, page);
    }
    let entry = boot.load(&memory)?;
    step(StepName::Loaded);
    let vm = Vm::new(prepared, memory)?;
    let vcpus = vm.create_vcpus(config.cpus)?;
    let bus = Arc::new(Bus::new(&vm, launch.devices, launch.console)?);
    if let Some(first) = vcpus.first() {
        registers::enter(first, vm.memory(), entry)?;
    }
    step(StepName::Created);
    let termination = Arc::new(Termination::new()?);
    let gate = Arc::new(Gate::default());
    step(StepName::Running);
    let vcpus = vcpus
        .into_iter()
        .enumerate()
        .map(|(index, vcpu)| {
            let (bus, gate) = (Arc::clone(&bus), Arc::clone(&gate));
            VcpuThread::spawn(index, vcpu, bus, gate, Arc::clone(&termination))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(KvmVm {
        vcpus,
        termination,
        gate,
        bus: Some(bus),
        _vm: vm,
    }))
}

impl RunningVm for KvmVm {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.termination.as_fd()
    }

    fn end(&mut self) -> Option<Result<StopReason, EngineError>> {
        self.termination.take()
    }

    fn kill(&mut self) {
        self.termination.set(Ok(StopReason::Killed));
    }

    fn release(&mut self) {
        self.termination.set(Ok(StopReason::Killed));
        self.gate.open();
        for vcpu in &mut self.vcpus {
            vcpu.join();
        }
        // The last reference, now that the vCPUs are gone. The VM itself stays: its teardown takes
        // the host milliseconds.
        self.bus = None;
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.gate.close();
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        while !(self.gate).is_waited_at_by(self.vcpus.len(), SIGNAL_INTERVAL) {
            // A vCPU that has ended the VM does not come to the gate.
            if self.termination.has_ended() {
                self.gate.open();
                return Ok(());
            }
            if Instant::now() >= deadline {
                self.gate.open();
                return Err(EngineError::Io {
                    operation: "stop the vCPUs",
                    source: std::io::ErrorKind::TimedOut.into(),
                });
            }
            self.vcpus.iter().for_each(VcpuThread::interrupt);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.gate.open();
        Ok(())
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn diagnose(&mut self) -> String {
        let devices = self.bus.as_ref().map(|bus| bus.describe());
        format!("devices:\n{}\n", devices.unwrap_or_default().join("\n"))
    }
}

impl Drop for KvmVm {
    fn drop(&mut self) {
        self.release();
    }
}

/// Converts a KVM error to an [`EngineError`] that names the operation.
pub(crate) fn kvm_error(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Kvm {
        operation,
        source: std::io::Error::from_raw_os_error(error.errno()),
    }
}
