//! Guest memory in the middle of bytes that nobody may change.
#![allow(unsafe_code)]

use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollection, GuestRegionMmap};

/// The guest's ranges, with a hole between them.
pub const RANGES: [(u64, usize); 2] = [(0, 0x2_0000), (0x4_0000, 0x1_0000)];
const GUARD: usize = 0x4000;
const CANARY: u8 = 0xc5;

/// `guard | range | guard | range | guard`, all in one mapping of the host's.
#[derive(Debug)]
pub struct GuardedMemory {
    /// What a device gets.
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
            // SAFETY: needed to have memory with neighbours that are known. The range lies within
            // `whole`, at a multiple of the page size; `whole` lives as long as `GuardedMemory`, and
            // each run drops its device before that.
            let region = unsafe {
                let host = whole.as_ptr().add(at);
                MmapRegion::build_raw(host, len, whole.prot(), whole.flags())
            };
            let region = region.expect("a part of a mapping");
            let region = GuestRegionMmap::new(region, GuestAddress(start));
            regions.push(region.expect("an address that is not at the end"));
            at += len + GUARD;
        }
        let guest = GuestRegionCollection::from_regions(regions).expect("ranges apart");
        let guarded = GuardedMemory { guest, whole };
        guarded.guards().for_each(|guard| guard.fill(CANARY));
        guarded
    }

    /// Panics if somebody wrote beside the guest's memory.
    pub fn check(&self) {
        for guard in self.guards() {
            assert!(guard.iter().all(|&byte| byte == CANARY), "a write outside");
        }
    }

    fn guards(&self) -> impl Iterator<Item = &mut [u8]> {
        let mut at = 0;
        let lens = RANGES.iter().map(|&(_, len)| len).chain([0]);
        lens.map(move |len| {
            // SAFETY: needed to look at memory that has no other name. Guards are apart from each
            // other and from what regions hand out, this is the only place that refers to them,
            // and no two of its iterators are alive at once.
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
    fn memory_is_the_guests_to_its_last_byte() {
        let memory = GuardedMemory::new();
        for (start, len) in RANGES {
            let all = vec![1; len];
            memory.guest.write_slice(&all, GuestAddress(start)).unwrap();
        }
        memory.check();
    }

    #[test]
    fn a_write_beside_it_is_noticed() {
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
