//! Guest RAM: mapped without being touched, and registered with KVM.
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

/// The size of a huge page of the host, in bytes.
const HUGE_PAGE: usize = boot::HUGE_PAGE as usize;

/// Guest RAM: see [`map_ram`].
pub(super) type GuestRam = GuestMemoryMmap;

/// Maps `bytes` of anonymous RAM around the MMIO hole. The host allocates a page when guest or
/// monitor first access it. The mapping is never removed: the process runs one VM.
///
/// # Errors
/// [`EngineError`] when the host cannot map it.
pub(crate) fn map_ram(bytes: u64) -> Result<GuestMemoryMmap, EngineError> {
    map_regions(bytes, |length, _| anonymous(length))
}

/// Maps `bytes` of RAM around the MMIO hole with `map`, which gets the length of a region and its
/// position in RAM without the hole.
pub(super) fn map_regions(
    bytes: u64,
    map: impl Fn(usize, u64) -> io::Result<MmapRegion>,
) -> Result<GuestRam, EngineError> {
    let mut position = 0;
    let regions = layout::ram(bytes)
        .into_iter()
        .map(|(start, length)| {
            let size = usize::try_from(length).map_err(io::Error::other)?;
            let region = map(size, position)?;
            position += length;
            GuestRegionMmap::new(region, GuestAddress(start))
                .ok_or_else(|| io::ErrorKind::InvalidInput.into())
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(too_large)?;
    GuestMemoryMmap::from_regions(regions).map_err(|error| too_large(io::Error::other(error)))
}

/// Registers `memory`, which [`map_ram`] mapped, with `vm`.
///
/// # Errors
/// [`EngineError`] when KVM refuses a region.
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
        // SAFETY: needed because KVM writes to the address range that it is given. Sound because
        // the range is guest memory that `map_ram` mapped and that is never unmapped, and slots do
        // not overlap (layout::ram).
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(kvm_error("registering guest memory"))?;
    }
    Ok(())
}

/// Advises the host to back the 2 MiB at this guest-physical address with small pages. A huge page
/// would be allocated and cleared as a whole at the first access (4.3 ms by the lab's clock).
pub(super) fn back_with_small_pages(memory: &GuestRam, start: u64) {
    let Ok(page) = memory.get_slice(GuestAddress(start), HUGE_PAGE) else {
        return;
    };
    let host = page.ptr_guard_mut().as_ptr();
    // SAFETY: needed because only madvise(2) selects the page size. Sound because the range is
    // guest memory and the advice does not change its content. The error is ignored: a kernel
    // without huge pages refuses the advice and does not need it.
    let _ = unsafe { rustix::mm::madvise(host.cast(), HUGE_PAGE, Advice::LinuxNoHugepage) };
}

const PROTECTION: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
const FLAGS: MapFlags = MapFlags::PRIVATE.union(MapFlags::NORESERVE);

/// Reserves addresses for `length` bytes, aligned to huge pages: KVM maps huge pages only if guest and
/// host addresses are equal modulo 2 MiB. They are private memory that is zero, until something else is
/// mapped there.
pub(super) fn reserve(length: usize) -> io::Result<*mut u8> {
    let room = length
        .checked_add(HUGE_PAGE)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let reserved =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, PROTECTION, FLAGS)? };
    let aligned = reserved.map_addr(|address| address.next_multiple_of(HUGE_PAGE));
    Ok(aligned.cast())
}

/// The region of guest memory at an address of [`reserve`]. It is excluded from core dumps of the
/// monitor, because it is large and holds the guest's secrets.
pub(super) fn region(start: *mut u8, length: usize) -> io::Result<MmapRegion> {
    // SAFETY: needed because only madvise(2) excludes it. Sound because it affects core dumps only.
    unsafe { rustix::mm::madvise(start.cast(), length, Advice::LinuxDontDump)? };
    // SAFETY: the range lies in the mapping of `reserve`, which is never unmapped.
    let region = unsafe {
        MmapRegion::build_raw(start, length, PROTECTION.bits() as i32, FLAGS.bits() as i32)
    };
    region.map_err(io::Error::other)
}

/// Maps anonymous memory, of huge pages where the host has them.
fn anonymous(length: usize) -> io::Result<MmapRegion> {
    let start = reserve(length)?;
    let aligned = start.cast::<std::ffi::c_void>();
    // Hosts whose `transparent_hugepage/enabled` is `madvise` use huge pages only where they are
    // asked for. The error is ignored: a kernel without huge pages refuses the advice.
    // SAFETY: the range lies in the mapping above; the advice does not change its content.
    let _ = unsafe { rustix::mm::madvise(aligned, length, Advice::LinuxHugepage) };
    // The boot tables take a few pages at the bottom of memory, for which clearing a huge page
    // would cost too much (4.3 ms by the lab's clock). The error is ignored: a kernel without huge
    // pages refuses the advice and does not need it.
    let bottom = length.min(HUGE_PAGE);
    // SAFETY: the range lies in the mapping above; the advice does not change its content.
    let _ = unsafe { rustix::mm::madvise(aligned, bottom, Advice::LinuxNoHugepage) };
    region(start, length)
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

    const LENGTH: usize = 3 * HUGE_PAGE;

    fn ram() -> GuestRam {
        let region = GuestRegionMmap::new(anonymous(LENGTH).unwrap(), GuestAddress(0)).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    }

    /// The kernel's flags of the mapping at this address of guest memory (proc(5), `VmFlags`).
    fn flags(ram: &GuestRam, address: usize) -> Vec<String> {
        let start = ram.get_host_address(GuestAddress(0)).unwrap() as usize + address;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            let number = |digits| usize::from_str_radix(digits, 16).ok();
            if let Some((Some(from), Some(to))) = range.map(|(a, b)| (number(a), number(b))) {
                inside = (from..to).contains(&start);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("{start:x} is not mapped");
    }

    #[test]
    fn ram_is_aligned_to_huge_pages() {
        let host = ram().get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(host as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn ram_is_excluded_from_core_dumps() {
        let ram = ram();
        for address in [0, LENGTH - 1] {
            let flags = flags(&ram, address);
            assert!(flags.iter().any(|flag| flag == "dd"), "{flags:?}");
        }
    }

    /// Also where `transparent_hugepage/enabled` is `madvise`. The first 2 MiB hold boot tables,
    /// and a caller may exclude more.
    #[test]
    fn ram_is_backed_with_huge_pages_except_where_little_of_one_is_used() {
        let ram = ram();
        let page_size = |address| {
            let flags = flags(&ram, address);
            let advice = ["hg", "nh"].map(|flag| flags.iter().any(|known| known == flag));
            (advice[0], advice[1])
        };
        let (huge, small) = ((true, false), (false, true));
        assert_eq!(page_size(0), small);
        assert_eq!(page_size(HUGE_PAGE), huge);
        assert_eq!(page_size(2 * HUGE_PAGE), huge);
        back_with_small_pages(&ram, HUGE_PAGE as u64);
        assert_eq!(page_size(HUGE_PAGE), small);
        assert_eq!(page_size(LENGTH - 1), huge);
    }
}
