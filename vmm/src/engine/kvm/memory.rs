//! Guest RAM: mapped without being touched, registered with KVM.
#![allow(unsafe_code)]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::super::EngineError;
use super::kvm_error;
use crate::boot::layout;

/// Guest RAM that KVM knows. The mapping lives at least as long as the VM: see [`map_ram`].
pub(super) type GuestRam = GuestMemoryMmap;

/// Maps `bytes` of anonymous RAM around the MMIO hole and gives it to `vm`. Nothing is touched:
/// the host backs a page when guest or monitor first use it.
///
/// The caller keeps the returned memory until `vm` and its vCPUs are gone.
///
/// # Errors
/// [`EngineError`] when the host cannot map it or KVM refuses it.
pub(crate) fn map_ram(vm: &VmFd, bytes: u64) -> Result<GuestMemoryMmap, EngineError> {
    let ranges = layout::ram(bytes)
        .into_iter()
        .map(|(start, length)| usize::try_from(length).map(|length| (GuestAddress(start), length)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| too_large(std::io::ErrorKind::InvalidInput.into()))?;
    let memory = GuestMemoryMmap::from_ranges(&ranges)
        .map_err(|error| too_large(std::io::Error::other(error)))?;
    for (slot, region) in memory.iter().enumerate() {
        let host = memory
            .get_host_address(region.start_addr())
            .map_err(|error| too_large(std::io::Error::other(error)))?;
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: needed because KVM writes to whatever mapping it is told of. Sound because the
        // range is one whole mapping that `memory` owns, slots do not overlap (layout::ram), and
        // the caller keeps `memory` longer than the VM.
        unsafe { vm.set_user_memory_region(slot) }.map_err(kvm_error("giving it guest memory"))?;
    }
    Ok(memory)
}

fn too_large(source: std::io::Error) -> EngineError {
    EngineError::Io {
        operation: "map guest memory",
        source,
    }
}
