//! The VM itself: KVM's side of memory, interrupt controllers and vCPUs.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::super::EngineError;
use super::memory::{GuestRam, register_ram};
use super::{cpuid, kvm_error};
use crate::boot::layout;
use crate::virtio::mmio::InterruptLine;

/// A VM of which nothing is decided yet, being created by a thread of its own: it has no memory
/// and no vCPUs.
///
/// `KVM_CREATE_VM` is the one call of a set-up that takes long, and it takes waiting, not work:
/// attaching its worker to the caller's cgroup waits for a grace period of the host kernel, unless
/// the cgroups were changed just before or are mounted with `favordynmods` (10 of 13 ms to the news
/// of an end with the first instruction in the lab; tens in some cgroups). So it goes on while it is
/// being found out what to boot, and while that is put into memory.
#[derive(Debug)]
pub struct Prepared(JoinHandle<Result<EmptyVm, EngineError>>);

#[derive(Debug)]
struct EmptyVm {
    kvm: Kvm,
    fd: VmFd,
}

impl Prepared {
    /// Begins to create a VM and its interrupt controllers; `done` is called when they are there.
    ///
    /// # Errors
    /// [`EngineError`] when the host has no more threads. What is wrong with KVM is said when the
    /// VM is started.
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
        fd.create_irq_chip()
            .map_err(kvm_error("creating the interrupt controllers"))?;
        Ok(EmptyVm { kvm, fd })
    }
}

/// A VM without vCPUs: memory and interrupt controllers (no PIT: hardware-reduced ACPI guests do
/// not look for one, and taking it down costs the host milliseconds).
#[derive(Debug)]
pub(super) struct Vm {
    // Order of drop: the VM before the memory it was given.
    fd: Arc<VmFd>,
    kvm: Kvm,
    memory: GuestRam,
}

impl Vm {
    /// Gives a prepared VM this RAM, which `map_ram` made.
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

    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// vCPUs with CPUID and MSRs as at power-on; `registers::enter` makes one of them begin.
    pub(super) fn create_vcpus(&self, count: u32) -> Result<Vec<VcpuFd>, EngineError> {
        let supported = self
            .kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("reading the supported CPUID"))?;
        (0..count)
            .map(|index| {
                let vcpu = self
                    .fd
                    .create_vcpu(index.into())
                    .map_err(kvm_error("creating a vCPU"))?;
                let cpuid = cpuid::for_vcpu(&supported, index, count);
                vcpu.set_cpuid2(&cpuid)
                    .map_err(kvm_error("setting a vCPU's CPUID"))?;
                Ok(vcpu)
            })
            .collect()
    }

    /// The line with number `gsi` of the I/O APIC.
    pub(super) fn interrupt_line(&self, gsi: u32) -> Box<dyn InterruptLine> {
        Box::new(Line {
            vm: Arc::clone(&self.fd),
            gsi,
        })
    }
}

/// Opens `/dev/kvm`, with the way out when it cannot be.
pub(crate) fn open() -> Result<Kvm, EngineError> {
    let kvm = Kvm::new().map_err(|error| {
        let source = io::Error::from_raw_os_error(error.errno());
        let (what, remediation) = match source.kind() {
            io::ErrorKind::NotFound => (
                "this host has no /dev/kvm",
                "load the kvm-intel or kvm-amd module, or use `--engine qemu`",
            ),
            io::ErrorKind::PermissionDenied => (
                "/dev/kvm may not be opened by this user",
                "add the user to its group: `sudo usermod -aG kvm $USER`, then log in again",
            ),
            _ => {
                return EngineError::Kvm {
                    operation: "opening /dev/kvm",
                    source,
                };
            }
        };
        EngineError::Missing {
            what: what.into(),
            remediation: remediation.into(),
        }
    })?;
    if kvm.get_api_version() != kvm_bindings::KVM_API_VERSION as i32 {
        return Err(EngineError::Missing {
            what: format!("/dev/kvm speaks API version {}", kvm.get_api_version()),
            remediation: "use a Linux kernel of this century, or `--engine qemu`".into(),
        });
    }
    Ok(kvm)
}

/// `KVM_CREATE_VM`, and where KVM may put its own pages; a signal that interrupts it is no reason to
/// give up.
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

/// Two ioctls instead of an irqfd: no descriptor to set up, and none whose removal makes the end
/// of the process wait for the host kernel's grace periods.
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
                tracing::error!(gsi = self.gsi, %error, "an interrupt could not be delivered");
            }
        }
    }
}
