//! Guest RAM: mapped without being touched, registered with KVM.
#![allow(unsafe_code)]

use std::io;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use super::super::EngineError;
use super::kvm_error;
use crate::boot::{self, layout};

/// What the host can back with one page at most, in bytes.
const HUGE_PAGE: usize = boot::HUGE_PAGE as usize;

/// Guest RAM: see [`map_ram`].
pub(super) type GuestRam = GuestMemoryMmap;

/// Maps `bytes` of anonymous RAM around the MMIO hole. Nothing is touched: the host backs a page
/// when guest or monitor first use it. It stays mapped until this process ends, as does the VM.
///
/// # Errors
/// [`EngineError`] when the host cannot map it.
pub(crate) fn map_ram(bytes: u64) -> Result<GuestMemoryMmap, EngineError> {
    let regions = layout::ram(bytes)
        .into_iter()
        .map(|(start, length)| {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            GuestRegionMmap::new(anonymous(length)?, GuestAddress(start))
                .ok_or_else(|| io::ErrorKind::InvalidInput.into())
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(too_large)?;
    GuestMemoryMmap::from_regions(regions).map_err(|error| too_large(io::Error::other(error)))
}

/// Gives `vm` this memory, which [`map_ram`] made.
///
/// # Errors
/// [`EngineError`] when KVM refuses it.
pub(crate) fn register_ram(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), EngineError> {
    for (slot, region) in memory.iter().enumerate() {
        let host = memory
            .get_host_address(region.start_addr())
            .map_err(|error| too_large(io::Error::other(error)))?;
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: needed because KVM writes to whatever mapping it is told of. Sound because the
        // range is guest memory that `map_ram` mapped and that is never unmapped, and slots do not
        // overlap (layout::ram).
        unsafe { vm.set_user_memory_region(slot) }.map_err(kvm_error("giving it guest memory"))?;
    }
    Ok(())
}

/// Says that the huge page at this guest-physical address is better backed by small ones. It costs
/// 2 MiB of memory, and the clearing of them, when the first byte is touched (4.3 ms by the lab's
/// clock).
pub(super) fn back_with_small_pages(memory: &GuestRam, start: u64) {
    let Ok(page) = memory.get_slice(GuestAddress(start), HUGE_PAGE) else {
        return;
    };
    let host = page.ptr_guard_mut().as_ptr();
    // SAFETY: needed because only the kernel knows how memory is backed. Sound because the range is
    // guest memory, and nothing but how it is backed changes. Where the kernel knows no huge pages,
    // there is nothing to be said.
    let _ = unsafe { rustix::mm::madvise(host.cast(), HUGE_PAGE, Advice::LinuxNoHugepage) };
}

/// Anonymous memory that begins where a huge page can: guest and host addresses are then the same
/// modulo 2 MiB, without which KVM maps single pages only, however the host backs them. A core dump
/// of the monitor leaves it out: it is large, and the guest's secrets are in it.
fn anonymous(length: usize) -> io::Result<MmapRegion> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    let room = length
        .checked_add(HUGE_PAGE)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let reserved =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, protection, flags)? };
    let aligned = reserved.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
    // SAFETY: the range lies in the mapping above; only what a core dump holds changes.
    unsafe { rustix::mm::madvise(aligned, length, Advice::LinuxDontDump)? };
    // The tables that a kernel is given are a few pages at the bottom of memory: not worth the
    // clearing of 2 MiB (4.3 ms by the lab's clock). Where the kernel knows no huge pages, there is
    // nothing to be said.
    let bottom = length.min(HUGE_PAGE);
    // SAFETY: the range lies in the mapping above; only how it is backed changes.
    let _ = unsafe { rustix::mm::madvise(aligned, bottom, Advice::LinuxNoHugepage) };
    // SAFETY: the range lies in the mapping above, which is never unmapped.
    let region = unsafe {
        MmapRegion::build_raw(
            aligned.cast(),
            length,
            protection.bits() as i32,
            flags.bits() as i32,
        )
    };
    region.map_err(io::Error::other)
}

fn too_large(source: io::Error) -> EngineError {
    EngineError::Io {
        operation: "map guest memory",
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn ram() -> GuestRam {
        let region = GuestRegionMmap::new(anonymous(4 * PAGE).unwrap(), GuestAddress(0)).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    }

    #[test]
    fn ram_begins_where_a_huge_page_can() {
        let host = ram().get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(host as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn ram_is_in_no_core_dump() {
        let start = ram().get_host_address(GuestAddress(0)).unwrap() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut mapping = (0, 0);
        let mut left_out = Vec::new();
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            let number = |digits| usize::from_str_radix(digits, 16).ok();
            if let Some((Some(from), Some(to))) = range.map(|(a, b)| (number(a), number(b))) {
                mapping = (from, to);
            } else if let Some(flags) = line.strip_prefix("VmFlags:")
                && flags.split(' ').any(|flag| flag == "dd")
            {
                left_out.push(mapping);
            }
        }
        assert!(
            left_out.contains(&(start, start + 4 * PAGE)),
            "{left_out:x?}"
        );
    }
}
