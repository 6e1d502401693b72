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
#[cfg(any(test, feature = "fuzzing"))]
pub mod hostile;
mod memory;
mod memory_file;
mod msrs;
mod power;
mod registers;
mod serial;
mod snapshot;
mod vcpu;
mod vm;
mod vm_state;

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use microagent_proto::control::StopReason;

use self::bus::Bus;
use self::gate::Gate;
use self::vcpu::{SIGNAL_INTERVAL, Termination, VcpuReport, VcpuThread};
use self::vm::Vm;
use super::{EngineError, Launch, RunningVm, StepName};
use crate::boot::{Boot, CommandLine};

/// What to do if KVM cannot be used or does not run a guest. `doctor` knows more about the cause.
pub(super) const REMEDIATION: &str =
    "check this host with `microagent doctor`, or use `--engine qemu`";

pub(crate) use self::memory::{map_ram, register_ram};
pub(crate) use self::registers::long_mode;
pub use self::snapshot::restore;
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
    vm: Vm,
    /// The file that its memory was mapped from.
    saved: Option<File>,
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
    step(StepName::Running);
    Ok(Box::new(run(vm, vcpus, bus)?))
}

/// Lets the vCPUs run.
fn run(vm: Vm, vcpus: Vec<VcpuFd>, bus: Arc<Bus>) -> Result<KvmVm, EngineError> {
    let termination = Arc::new(Termination::new()?);
    let gate = Arc::new(Gate::default());
    let vcpus = vcpus
        .into_iter()
        .enumerate()
        .map(|(index, vcpu)| {
            let (bus, gate) = (Arc::clone(&bus), Arc::clone(&gate));
            VcpuThread::spawn(index, vcpu, bus, gate, Arc::clone(&termination))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(KvmVm {
        vcpus,
        termination,
        gate,
        bus: Some(bus),
        vm,
        saved: None,
    })
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
        // What its memory was mapped from lies in a file system, too.
        if self.saved.take().is_some() {
            memory_file::unmap(self.vm.memory());
        }
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.stop_vcpus().map(drop)
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.gate.open();
        Ok(())
    }

    fn save(&mut self, memory: &File) -> Result<Vec<u8>, EngineError> {
        snapshot::save(self, memory)
    }

    fn written_pages(&self) -> Option<Vec<Range<u64>>> {
        let saved = self.saved.as_ref()?;
        memory_file::written(self.vm.memory(), saved).ok()
    }

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }

    fn diagnose(&mut self) -> String {
        let devices = self.bus.as_ref().map(|bus| bus.describe());
        let vcpus = self.describe_vcpus();
        let lines = |lines: Vec<String>| lines.join("\n");
        format!(
            "devices:\n{}\nvCPUs:\n{}\n",
            lines(devices.unwrap_or_default()),
            lines(vcpus)
        )
    }
}

impl KvmVm {
    /// Closes the gate and waits until all vCPUs wait there. False if the VM has ended.
    fn stop_vcpus(&self) -> Result<bool, EngineError> {
        self.gate.close();
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        while !(self.gate).is_waited_at_by(self.vcpus.len(), SIGNAL_INTERVAL) {
            // A vCPU that has ended the VM does not come to the gate.
            if self.termination.has_ended() {
                self.gate.open();
                return Ok(false);
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
        Ok(true)
    }

    /// A line for each vCPU, stopped for a moment if the VM is not paused: KVM returns the state of one
    /// that does not run.
    fn describe_vcpus(&self) -> Vec<String> {
        let was_paused = self.gate.is_closed();
        match self.stop_vcpus() {
            Ok(true) => {}
            Ok(false) => return vec!["the VM has ended".to_owned()],
            Err(error) => return vec![error.to_string()],
        }
        let vcpus = self.vcpus.iter().enumerate();
        let lines = vcpus.map(|(index, vcpu)| match VcpuReport::read(&vcpu.vcpu()) {
            Ok(report) => format!("vcpu {index}: {report}"),
            Err(error) => format!("vcpu {index}: KVM does not tell its state: {error}"),
        });
        let lines = lines.collect();
        if !was_paused {
            self.gate.open();
        }
        lines
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
