//! Finds the huge pages of which a kernel uses only a small part.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek};

use super::segments;

/// The size of a huge page of the host, in bytes.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Pages of which fewer bytes are used are sparse. The host clears a huge page as a whole, so small
/// pages are cheaper for them.
const SPARSE_LIMIT: u64 = HUGE_PAGE / 8;

/// The guest-physical addresses of the huge pages inside the ELF kernel in `file` of which its
/// segments use less than an eighth. Linux reserves its whole image (`early_reserve_memory` in
/// arch/x86/kernel/setup.c), so the gaps between segments stay unused until they are freed, if
/// ever.
///
/// # Errors
/// When the file cannot be read, or ends inside its headers.
pub(super) fn find(file: &mut (impl Read + Seek)) -> io::Result<Vec<u64>> {
    let (mut first, mut last) = (u64::MAX, 0);
    let mut used = BTreeMap::new();
    for (start, end) in segments::loaded(file)? {
        (first, last) = (first.min(start), last.max(end));
        // The pages between the first and the last page of a segment are fully used.
        let (head, tail) = (page_of(start), page_of(end - 1));
        *used.entry(head).or_insert(0) += (head + (HUGE_PAGE - 1)).min(end - 1) - start + 1;
        if tail != head {
            *used.entry(tail).or_insert(0) += end - tail;
        }
    }
    let within = |page: u64| page >= first && last - page >= HUGE_PAGE;
    let pages = used.into_iter();
    let pages = pages.filter(|&(page, used)| used < SPARSE_LIMIT && within(page));
    Ok(pages.map(|(page, _)| page).collect())
}

fn page_of(address: u64) -> u64 {
    address / HUGE_PAGE * HUGE_PAGE
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
    use proptest::prelude::*;
    use vm_memory::ByteValued;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn pages(segments: &[(u64, u64)]) -> Vec<u64> {
        let header = Elf64_Ehdr {
            e_phoff: 64,
            e_phnum: segments.len() as u16,
            ..Default::default()
        };
        let mut file = header.as_slice().to_vec();
        for &(p_paddr, p_memsz) in segments {
            let segment = Elf64_Phdr {
                p_type: PT_LOAD,
                p_paddr,
                p_memsz,
                ..Default::default()
            };
            file.extend(segment.as_slice());
        }
        find(&mut Cursor::new(file)).unwrap()
    }

    #[test]
    fn a_sparse_page_inside_the_kernel_is_found() {
        let text = (16 * MIB, 7 * MIB);
        let entry = (24 * MIB, 8 << 10);
        let more = (24 * MIB + 4096, 4 << 10);
        let data = (28 * MIB, 3 * MIB);
        assert_eq!(pages(&[text, entry, data]), [24 * MIB]);
        assert_eq!(pages(&[text, entry, more, data]), [24 * MIB]);
        // Memory after the kernel is used for other things.
        assert!(pages(&[text, entry]).is_empty());
        assert!(pages(&[text, (24 * MIB, 256 << 10), data]).is_empty());
        // The page holds the end of one segment and the beginning of the next.
        assert_eq!(pages(&[(16 * MIB, 8 * MIB + 100), data]), [24 * MIB]);
        assert!(pages(&[]).is_empty());
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        for length in [0, 10, 63] {
            assert!(find(&mut Cursor::new(vec![0; length])).is_err());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_segments_do_not_panic(
            segments in prop::collection::vec((any::<u64>(), any::<u64>()), 0..5),
            small in prop::collection::vec((0..64 * MIB, 0..8 * MIB), 0..5),
        ) {
            pages(&segments);
            let end = small.iter().map(|(start, length)| start + length).max().unwrap_or(0);
            prop_assert!(pages(&small).iter().all(|page| page + HUGE_PAGE <= end));
        }
    }
}
