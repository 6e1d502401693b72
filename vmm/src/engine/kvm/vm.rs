//! The KVM VM: memory slots, interrupt controllers and vCPUs.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::super::EngineError;
use super::memory::{GuestRam, register_ram};
use super::{cpuid, kvm_error, msrs};
use crate::boot::layout;
use crate::virtio::mmio::InterruptLine;

/// A VM without memory and vCPUs that a separate thread creates.
///
/// `KVM_CREATE_VM` is the only slow call of the setup, and it waits rather than computes: attaching
/// its worker to the caller's cgroup waits for a grace period of the host kernel, unless the
/// cgroups were changed just before or are mounted with `favordynmods`. It takes 10 of the 13 ms
/// that a VM takes in the lab if it ends with its first instruction, and tens of milliseconds in
/// some cgroups. Therefore it runs while the caller determines what to boot and while the kernel is
/// loaded.
#[derive(Debug)]
pub struct Prepared(JoinHandle<Result<EmptyVm, EngineError>>);

#[derive(Debug)]
struct EmptyVm {
    kvm: Kvm,
    fd: VmFd,
}

impl Prepared {
    /// Starts to create a VM and its interrupt controllers, and calls `done` when they exist.
    ///
    /// # Errors
    /// [`EngineError`] when the thread cannot be started. Errors of KVM are returned when the VM is
    /// started.
    pub fn begin(done: impl FnOnce() + Send + 'static) -> Result<Prepared, EngineError> {
        let create = move || {
            let empty = EmptyVm::create();
            done();
            empty
        };
        let thread = thread::Builder::new()
            .name("prepare".into())
            .stack_size(128 << 10)
            .spawn(create);
        thread.map(Prepared).map_err(|source| EngineError::Io {
            operation: "start the thread that creates the VM",
            source,
        })
    }

    fn wait(self) -> Result<EmptyVm, EngineError> {
        self.0.join().unwrap_or_else(|_| {
            Err(EngineError::Io {
                operation: "create a VM",
                source: io::Error::other("its thread panicked"),
            })
        })
    }
}

impl EmptyVm {
    fn create() -> Result<EmptyVm, EngineError> {
        let kvm = open()?;
        let fd = create_vm(&kvm)?;
        hide_performance_counters(&fd);
        fd.create_irq_chip()
            .map_err(kvm_error("creating the interrupt controllers"))?;
        Ok(EmptyVm { kvm, fd })
    }
}

/// A VM with memory and interrupt controllers. There is no PIT: hardware-reduced ACPI guests do not
/// use one, and tearing it down takes the host milliseconds.
#[derive(Debug)]
pub(super) struct Vm {
    // Drop order: the VM before its memory.
    fd: Arc<VmFd>,
    kvm: Kvm,
    memory: GuestRam,
}

impl Vm {
    /// Waits for a prepared VM and registers `memory`, which `map_ram` mapped.
    pub(super) fn new(prepared: Prepared, memory: GuestRam) -> Result<Vm, EngineError> {
        let EmptyVm { kvm, fd } = prepared.wait()?;
        register_ram(&fd, &memory)?;
        Ok(Vm {
            fd: Arc::new(fd),
            kvm,
            memory,
        })
    }

    pub(super) fn memory(&self) -> &GuestRam {
        &self.memory
    }

    pub(super) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Creates vCPUs with CPUID set and MSRs as at power-on. `registers::enter` prepares the first
    /// one to run.
    pub(super) fn create_vcpus(&self, count: u32) -> Result<Vec<VcpuFd>, EngineError> {
        let supported = self
            .kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("reading the supported CPUID"))?;
        self.create_empty_vcpus(count)?
            .into_iter()
            .zip(0..)
            .map(|(vcpu, index)| {
                let cpuid = cpuid::for_vcpu(&supported, index, count).map_err(|error| {
                    EngineError::Guest(format!("the CPUID has too many leaves: {error:?}"))
                })?;
                vcpu.set_cpuid2(&cpuid)
                    .map_err(kvm_error("setting a vCPU's CPUID"))?;
                msrs::set(&vcpu, cpuid::Vendor::of(&supported))?;
                Ok(vcpu)
            })
            .collect()
    }

    /// Creates vCPUs as KVM makes them.
    pub(super) fn create_empty_vcpus(&self, count: u32) -> Result<Vec<VcpuFd>, EngineError> {
        (0..count)
            .map(|index| {
                let vcpu = self.fd.create_vcpu(index.into());
                vcpu.map_err(kvm_error("creating a vCPU"))
            })
            .collect()
    }

    /// The I/O APIC's interrupt line with number `gsi`.
    pub(super) fn interrupt_line(&self, gsi: u32) -> Box<dyn InterruptLine> {
        Box::new(Line {
            vm: Arc::clone(&self.fd),
            gsi,
        })
    }
}

/// Opens `/dev/kvm`. Errors carry a remediation.
pub(crate) fn open() -> Result<Kvm, EngineError> {
    let kvm = Kvm::new().map_err(|error| {
        let source = io::Error::from_raw_os_error(error.errno());
        let what = match source.kind() {
            io::ErrorKind::NotFound => "this host has no /dev/kvm",
            io::ErrorKind::PermissionDenied => "this user may not open /dev/kvm",
            _ => {
                return EngineError::Kvm {
                    operation: "opening /dev/kvm",
                    source,
                };
            }
        };
        EngineError::Missing {
            what: what.into(),
            remediation: super::REMEDIATION.into(),
        }
    })?;
    if kvm.get_api_version() != kvm_bindings::KVM_API_VERSION as i32 {
        return Err(EngineError::Missing {
            what: format!("unsupported KVM API version {}", kvm.get_api_version()),
            remediation: super::REMEDIATION.into(),
        });
    }
    Ok(kvm)
}

/// Creates a VM and places KVM's own pages. Retries `KVM_CREATE_VM` when a signal interrupts it.
pub(crate) fn create_vm(kvm: &Kvm) -> Result<VmFd, EngineError> {
    let vm = loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => break result.map_err(kvm_error("creating a VM"))?,
        }
    };
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(kvm_error("placing its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS as usize)
        .map_err(kvm_error("placing its TSS"))?;
    Ok(vm)
}

/// Gives vCPUs no performance counters (Documentation/virt/kvm/api.rst, `KVM_CAP_PMU_CAPABILITY`).
/// Hiding their CPUID bits is not enough on AMD, where guests use the four oldest ones without
/// asking. Kernels before Linux 5.18 do not have the capability; the error is ignored.
fn hide_performance_counters(vm: &VmFd) {
    let mut capability = kvm_bindings::kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_PMU_CAPABILITY,
        ..Default::default()
    };
    capability.args[0] = kvm_bindings::KVM_PMU_CAP_DISABLE.into();
    let _ = vm.enable_cap(&capability);
}

/// An interrupt line driven by ioctls. An irqfd would have to be set up, and its removal makes the
/// exit of the process wait for grace periods of the host kernel.
struct Line {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Line({})", self.gsi)
    }
}

impl InterruptLine for Line {
    fn pulse(&self) {
        for active in [true, false] {
            if let Err(error) = self.vm.set_irq_line(self.gsi, active) {
                tracing::error!(gsi = self.gsi, %error, "cannot deliver an interrupt");
            }
        }
    }
}
