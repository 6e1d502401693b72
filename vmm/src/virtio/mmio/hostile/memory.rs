//! Guest memory between guard areas.
#![allow(unsafe_code)]

use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollection, GuestRegionMmap};

/// The ranges of guest memory, with a hole between them.
pub const RANGES: [(u64, usize); 2] = [(0, 0x2_0000), (0x4_0000, 0x1_0000)];
const GUARD: usize = 0x4000;
const CANARY: u8 = 0xc5;

/// `guard | range | guard | range | guard`, in one mapping.
#[derive(Debug)]
pub struct GuardedMemory {
    /// The memory that the device accesses.
    pub guest: GuestMemoryMmap,
    whole: MmapRegion,
}

impl GuardedMemory {
    pub fn new() -> GuardedMemory {
        let ranges: usize = RANGES.iter().map(|&(_, len)| len + GUARD).sum();
        let whole = MmapRegion::new(GUARD + ranges).expect("memory for a test");
        let mut regions = Vec::new();
        let mut at = GUARD;
        for (start, len) in RANGES {
            // SAFETY: needed to place regions next to known memory. The range is within `whole`, at
            // a multiple of the page size. `whole` lives as long as `GuardedMemory`, and each run
            // drops its device before that.
            let region = unsafe {
                let host = whole.as_ptr().add(at);
                MmapRegion::build_raw(host, len, whole.prot(), whole.flags())
            };
            let region = region.expect("part of the mapping");
            let region = GuestRegionMmap::new(region, GuestAddress(start));
            regions.push(region.expect("an address below the end of the address space"));
            at += len + GUARD;
        }
        let guest =
            GuestRegionCollection::from_regions(regions).expect("ranges that do not overlap");
        let guarded = GuardedMemory { guest, whole };
        guarded.guards().for_each(|guard| guard.fill(CANARY));
        guarded
    }

    /// Panics if anything was written outside guest memory.
    pub fn check(&self) {
        for guard in self.guards() {
            assert!(
                guard.iter().all(|&byte| byte == CANARY),
                "a write outside guest memory"
            );
        }
    }

    fn guards(&self) -> impl Iterator<Item = &mut [u8]> {
        let mut at = 0;
        let lens = RANGES.iter().map(|&(_, len)| len).chain([0]);
        lens.map(move |len| {
            // SAFETY: needed to access memory that is in no region. Guards do not overlap each
            // other or a region, this is the only code that refers to them, and no two iterators
            // exist at the same time.
            let guard =
                unsafe { std::slice::from_raw_parts_mut(self.whole.as_ptr().add(at), GUARD) };
            at += GUARD + len;
            guard
        })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn all_of_the_guest_memory_is_writable() {
        let memory = GuardedMemory::new();
        for (start, len) in RANGES {
            let all = vec![1; len];
            memory.guest.write_slice(&all, GuestAddress(start)).unwrap();
        }
        memory.check();
    }

    #[test]
    fn a_write_outside_is_detected() {
        for guard in 0..=RANGES.len() {
            for at in [0, GUARD - 1] {
                let memory = GuardedMemory::new();
                memory.guards().nth(guard).unwrap()[at] = 0;
                let check = std::panic::AssertUnwindSafe(|| memory.check());
                assert!(std::panic::catch_unwind(check).is_err(), "{guard} at {at}");
            }
        }
    }
}
