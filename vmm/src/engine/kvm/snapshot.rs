//! Saving a VM, and starting one from what was saved.
//!
//! | step of saving | why in this order |
//! |---|---|
//! | the vCPUs stop ([`pause`](super::super::RunningVm::pause)) | the instruction of the last exit is completed |
//! | the devices stop | they use memory and raise interrupts |
//! | memory | nothing changes it any more |
//! | devices, vCPUs, clock, interrupt controllers | interrupts that devices have raised are in the controllers |
//!
//! | step of restoring | why in this order |
//! |---|---|
//! | memory, mapped privately from its file | the guest's pages are read when it uses them |
//! | vCPUs | they have the local APICs that controllers refer to |
//! | clock, interrupt controllers | devices raise interrupts as soon as they exist |
//! | devices | they go on with what their queues have |
//! | the vCPUs run | |

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kvm_ioctls::Cap;
use vm_memory::GuestMemoryBackend;

use super::bus::Bus;
use super::memory::GuestRam;
use super::vcpu::{Extent, VcpuState};
use super::vm::{Prepared, Vm};
use super::vm_state::VmState;
use super::{KvmVm, memory_file, run};
use crate::engine::{EngineError, Launch, RunningVm, StepName};
use crate::snapshot::{Kind, StateError, StateFile, Writer};

/// How long a guest runs before it gets huge pages.
const HUGE_PAGES_AFTER: Duration = Duration::from_secs(1);

/// What of the configuration is part of the state: vCPUs, memory in bytes, virtio devices.
type Shape = [u64; 3];

/// See [`RunningVm::save`].
pub(super) fn save(vm: &mut KvmVm, file: &File) -> Result<Vec<u8>, EngineError> {
    let Some(bus) = vm.bus.as_ref().filter(|_| vm.gate.is_closed()) else {
        return Err(EngineError::Io {
            operation: "save a VM that is not paused",
            source: std::io::ErrorKind::InvalidInput.into(),
        });
    };
    bus.pause();
    let saved = write(vm, bus, file);
    bus.resume();
    saved
}

fn write(vm: &KvmVm, bus: &Bus, file: &File) -> Result<Vec<u8>, EngineError> {
    memory_file::save(vm.vm.memory(), vm.saved.is_some(), file)?;
    let mut to = Writer::default();
    let shape: Shape = [vm.vcpus.len() as u64, bytes(&vm.vm), bus.devices() as u64];
    to.value(Kind::Shape, 0, &shape);
    bus.save(&mut to).map_err(|source| EngineError::Io {
        operation: "make the disks of the VM durable",
        source,
    })?;
    let extent = extent(&vm.vm)?;
    for (vcpu, index) in vm.vcpus.iter().zip(0..) {
        VcpuState::save(&vcpu.vcpu(), &extent)?.write(index, &mut to);
    }
    VmState::save(vm.vm.fd())?.write(&mut to);
    Ok(to.finish())
}

/// Starts a VM from what [`RunningVm::save`] has made of one with the same configuration and as many
/// devices of the same kinds, whose configurations may have changed. `memory` begins with what was saved,
/// and must not change while the VM exists: it is mapped. `pages` are those that the guest will soon write,
/// as far as is known ([`RunningVm::written_pages`]).
///
/// # Errors
/// [`EngineError`]: KVM is unusable or refuses the state, the files are not of such a VM, or the host
/// lacks resources.
pub fn restore(
    prepared: Prepared,
    launch: Launch<'_>,
    state: &[u8],
    memory: File,
    pages: &[Range<u64>],
    mut step: impl FnMut(StepName),
) -> Result<Box<dyn RunningVm>, EngineError> {
    let config = launch.config;
    let memory_bytes = config.memory_mib << 20;
    let mut from = StateFile::parse(state)?;
    let wanted: Shape = [
        config.cpus.into(),
        memory_bytes,
        launch.devices.len() as u64,
    ];
    if from.value::<Shape>(Kind::Shape, 0)? != wanted {
        return Err(EngineError::State(StateError::Value {
            kind: Kind::Shape,
            why: "it is that of another VM",
        }));
    }
    let vcpu_states = (0..config.cpus)
        .map(|index| VcpuState::read(index, &mut from))
        .collect::<Result<Vec<_>, _>>()?;
    let vm_state = VmState::read(&mut from)?;
    let file = memory;
    let memory = memory_file::map(&file, memory_bytes)?;
    memory_file::populate(&memory, &file, pages);
    step(StepName::Loaded);
    let vm = Vm::new(prepared, memory)?;
    let extent = extent(&vm)?;
    let vcpus = vm.create_empty_vcpus(config.cpus)?;
    for (vcpu, state) in vcpus.iter().zip(&vcpu_states) {
        state.restore(vcpu, &extent)?;
    }
    vm_state.restore(vm.fd())?;
    let bus = Bus::restore(&vm, launch.devices, launch.console, &mut from)?;
    from.finish()?;
    for vcpu in &vcpus {
        // As after a pause. Fails if the guest does not use this clock.
        let _ = vcpu.kvmclock_ctrl();
    }
    step(StepName::Created);
    step(StepName::Running);
    let mut vm = run(vm, vcpus, Arc::new(bus))?;
    vm.saved = Some(file);
    use_huge_pages_later(vm.vm.memory().clone());
    Ok(Box::new(vm))
}

/// Lets the host use huge pages for a guest that does not end soon: for one that does, it would clear more
/// memory than the guest uses.
fn use_huge_pages_later(memory: GuestRam) {
    let later = move || {
        thread::sleep(HUGE_PAGES_AFTER);
        memory_file::allow_huge_pages(&memory);
    };
    let thread = thread::Builder::new().name("huge-pages".into());
    // Without it, the guest is slower.
    let _ = thread.stack_size(64 << 10).spawn(later);
}

fn bytes(vm: &Vm) -> u64 {
    use vm_memory::GuestMemoryRegion;
    vm.memory().iter().map(GuestMemoryRegion::len).sum()
}

fn extent(vm: &Vm) -> Result<Extent, EngineError> {
    let msrs = vm
        .kvm()
        .get_msr_index_list()
        .map_err(super::kvm_error("listing the MSRs"))?;
    Ok(Extent {
        msrs: msrs.as_slice().to_vec(),
        // Zero before Linux 5.17: then it has the fixed size.
        xsave: vm.fd().check_extension_int(Cap::Xsave2).max(0) as usize,
    })
}
