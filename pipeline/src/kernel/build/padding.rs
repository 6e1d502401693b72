//! Removes padding from an ELF kernel.
//!
//! Linux aligns some sections to huge pages (arch/x86/kernel/vmlinux.lds.S:
//! `ALIGN_ENTRY_TEXT_BEGIN` and `_END` around the entry code, `X86_ALIGN_RODATA_BEGIN`), and the
//! linker fills the gaps with `int3` or zeros. This padding is more than a third of the guest's
//! kernel; it would be loaded into every guest and is never used. Each segment is split into
//! several without the padding between them.

use elf::ElfBytes;
use elf::abi::{PF_X, PT_LOAD, PT_NOTE};
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

/// The unit of detection and the alignment of the resulting segments, in bytes.
const PAGE: usize = 4096;

/// Minimum length of padding to remove, in bytes: copying it costs much more than loading one more
/// segment.
const MIN_PADDING: usize = 64 << 10;

/// The linker's fill byte in executable segments.
const INT3: u8 = 0xcc;

/// The length of an ELF header and of a program header, in bytes (`Elf64_Ehdr`, `Elf64_Phdr`).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// A part of the image that is kept: its new program header and its content.
struct Piece<'i> {
    header: ProgramHeader,
    bytes: &'i [u8],
}

/// Returns the kernel without the padding of its segments, which is zero after loading. `None` if
/// the image is not an ELF file of Linux's form: only loadable segments and notes within them.
pub(crate) fn without_padding(image: &[u8]) -> Option<Vec<u8>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(image).ok()?;
    let segments: Vec<_> = elf.segments()?.iter().collect();
    let mut pieces = Vec::new();
    for segment in segments.iter().filter(|header| header.p_type == PT_LOAD) {
        pieces.extend(split(segment, bytes_of(image, segment)?)?);
    }
    let (mut headers, mut content) = (Vec::new(), Vec::new());
    let notes = segments.len() - segments.iter().filter(|s| s.p_type == PT_LOAD).count();
    let start = (HEADER + (pieces.len() + notes) * PROGRAM_HEADER).next_multiple_of(PAGE);
    for piece in &pieces {
        content.resize(content.len().next_multiple_of(PAGE), 0);
        let offset = (start + content.len()) as u64;
        content.extend_from_slice(piece.bytes);
        headers.push(ProgramHeader {
            p_offset: offset,
            ..piece.header
        });
    }
    for note in segments.iter().filter(|header| header.p_type != PT_LOAD) {
        let within = pieces.iter().zip(&headers).find_map(|(piece, moved)| {
            let at = note.p_offset.checked_sub(piece.header.p_offset)?;
            let end = at.checked_add(note.p_filesz)?;
            (end <= piece.header.p_filesz).then(|| moved.p_offset + at)
        });
        headers.push(ProgramHeader {
            p_offset: within.filter(|_| note.p_type == PT_NOTE)?,
            ..*note
        });
    }
    let mut file = head(image, &headers)?;
    file.resize(start, 0);
    file.append(&mut content);
    Some(file)
}

fn bytes_of<'i>(image: &'i [u8], segment: &ProgramHeader) -> Option<&'i [u8]> {
    let start = usize::try_from(segment.p_offset).ok()?;
    let length = usize::try_from(segment.p_filesz).ok()?;
    image.get(start..start.checked_add(length)?)
}

/// Splits a segment at its padding. The loader zeroes the memory after the content of the last
/// piece, as for any segment.
fn split<'i>(segment: &ProgramHeader, bytes: &'i [u8]) -> Option<Vec<Piece<'i>>> {
    let executable = segment.p_flags & PF_X != 0;
    let is_padding = |page: &[u8]| {
        let all = |filler| page.iter().all(|&byte| byte == filler);
        all(0) || executable && all(INT3)
    };
    let mut kept: Vec<(usize, usize)> = Vec::new();
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if is_padding(page) {
            continue;
        }
        let (start, end) = (number * PAGE, number * PAGE + page.len());
        match kept.last_mut() {
            Some((_, last)) if start - *last < MIN_PADDING => *last = end,
            _ => kept.push((start, end)),
        }
    }
    if kept.is_empty() {
        // The kernel still needs the memory.
        kept.push((0, 0));
    }
    let last = kept.len() - 1;
    kept.iter()
        .enumerate()
        .map(|(number, &(start, end))| {
            let (at, length) = (start as u64, (end - start) as u64);
            let p_memsz = match number == last {
                true => segment.p_memsz.checked_sub(at)?,
                false => length,
            };
            let header = ProgramHeader {
                p_offset: segment.p_offset.checked_add(at)?,
                p_vaddr: segment.p_vaddr.checked_add(at)?,
                p_paddr: segment.p_paddr.checked_add(at)?,
                p_filesz: length,
                p_memsz,
                p_align: PAGE as u64,
                ..*segment
            };
            let bytes = bytes.get(start..end)?;
            Some(Piece { header, bytes })
        })
        .collect()
}

/// The ELF header of `image` followed by these program headers, without sections.
fn head(image: &[u8], headers: &[ProgramHeader]) -> Option<Vec<u8>> {
    let mut head = image.get(..HEADER)?.to_vec();
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(32, &(HEADER as u64).to_le_bytes()); // e_phoff
    put(40, &0_u64.to_le_bytes()); // e_shoff
    put(56, &u16::try_from(headers.len()).ok()?.to_le_bytes()); // e_phnum
    put(60, &[0; 4]); // e_shnum, e_shstrndx
    for header in headers {
        head.extend(header.p_type.to_le_bytes());
        head.extend(header.p_flags.to_le_bytes());
        let fields = [
            header.p_offset,
            header.p_vaddr,
            header.p_paddr,
            header.p_filesz,
            header.p_memsz,
            header.p_align,
        ];
        head.extend(fields.into_iter().flat_map(u64::to_le_bytes));
    }
    Some(head)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A segment: its flags, its content, and the size of the memory after the content.
    type Part = (u32, Vec<u8>, u64);

    /// An image as a linker writes it, with a note in the first page of the first segment.
    fn image(parts: &[Part]) -> Vec<u8> {
        let mut file = vec![0; PAGE];
        let mut headers = Vec::new();
        let mut address = 16 << 20;
        for (flags, bytes, more) in parts {
            headers.push(ProgramHeader {
                p_type: PT_LOAD,
                p_flags: *flags,
                p_offset: file.len() as u64,
                p_vaddr: address | 0xffff_ffff_0000_0000,
                p_paddr: address,
                p_filesz: bytes.len() as u64,
                p_memsz: bytes.len() as u64 + more,
                p_align: 2 << 20,
            });
            file.extend(bytes);
            file.resize(file.len().next_multiple_of(PAGE), 0);
            address += (bytes.len() as u64 + more).next_multiple_of(2 << 20);
        }
        headers.push(ProgramHeader {
            p_type: PT_NOTE,
            p_offset: PAGE as u64 + 8,
            p_filesz: 16,
            ..headers[0]
        });
        let mut ident = vec![0; HEADER];
        ident[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        ident[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        let start = head(&ident, &headers).unwrap();
        file[..start.len()].copy_from_slice(&start);
        file
    }

    fn segments(image: &[u8]) -> Vec<ProgramHeader> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(image).unwrap();
        elf.segments().unwrap().iter().collect()
    }

    /// The pages that are not all zero after loading, and the end of memory.
    fn loaded(image: &[u8]) -> (BTreeMap<u64, Vec<u8>>, u64) {
        let mut pages = BTreeMap::new();
        let mut end = 0;
        for segment in segments(image).iter().filter(|s| s.p_type == PT_LOAD) {
            end = end.max(segment.p_paddr + segment.p_memsz);
            let bytes = bytes_of(image, segment).unwrap();
            for (number, page) in bytes.chunks(PAGE).enumerate() {
                if page.iter().any(|&byte| byte != 0) {
                    let address = segment.p_paddr + (number * PAGE) as u64;
                    pages.insert(address, page.to_vec());
                }
            }
        }
        (pages, end)
    }

    #[test]
    fn the_padding_of_code_and_data_is_removed() {
        let mut code = vec![0x90; 3 * PAGE];
        code.resize(40 * PAGE, INT3);
        code.extend([0x90; 100]);
        let mut data = vec![1; PAGE];
        data.resize(40 * PAGE, INT3);
        data.resize(80 * PAGE, 0);
        let before = image(&[(5, code.clone(), 0), (6, data.clone(), 9000)]);
        let after = without_padding(&before).unwrap();
        let shape: Vec<_> = segments(&after)
            .iter()
            .map(|s| (s.p_type, s.p_flags, s.p_paddr, s.p_filesz, s.p_memsz))
            .collect();
        let page = PAGE as u64;
        let second = 18 << 20;
        assert_eq!(
            shape,
            [
                (PT_LOAD, 5, 16 << 20, 3 * page, 3 * page),
                (PT_LOAD, 5, (16 << 20) + 40 * page, 100, 100),
                // int3 is padding in executable segments only.
                (PT_LOAD, 6, second, 40 * page, 80 * page + 9000),
                (PT_NOTE, 5, 16 << 20, 16, 40 * page + 100),
            ]
        );
        let note = segments(&after)[3].p_offset as usize;
        assert_eq!(after[note..note + 16], code[8..24]);
        assert_eq!(after.len(), PAGE * (1 + 3 + 1 + 40));
    }

    #[test]
    fn memory_without_content_is_kept() {
        let before = image(&[(5, vec![1; PAGE], 0), (6, vec![0; 20 * PAGE], 77)]);
        let after = segments(&without_padding(&before).unwrap())[1];
        assert_eq!((after.p_filesz, after.p_memsz), (0, 20 * PAGE as u64 + 77));
    }

    #[test]
    fn a_file_that_is_not_a_kernel_is_not_changed() {
        assert_eq!(without_padding(b""), None);
        assert_eq!(without_padding(b"\x7fELF\x02\x01\x01\0"), None);
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(without_padding(&program), None);
        let mut cut = image(&[(5, vec![1; 3 * PAGE], 0)]);
        cut.truncate(2 * PAGE);
        assert_eq!(without_padding(&cut), None);
    }

    fn part() -> impl Strategy<Value = Part> {
        let run = (0..4_u8, 1..40_usize).prop_map(|(kind, pages)| {
            let filler = [0, INT3, 1, 0x90][usize::from(kind)];
            vec![filler; pages * PAGE - usize::from(kind)]
        });
        let bytes = prop::collection::vec(run, 1..5).prop_map(|runs| runs.concat());
        (
            prop::sample::select(vec![4, 5, 6, 7]),
            bytes,
            0..100_000_u64,
        )
    }

    proptest! {
        #[test]
        fn only_padding_is_removed(parts in prop::collection::vec(part(), 1..4)) {
            // A note is content, so its page is kept.
            let mut parts = parts;
            parts[0].1[8] = 7;
            let before = image(&parts);
            let after = without_padding(&before).unwrap();
            let ((pages, end), (kept, new_end)) = (loaded(&before), loaded(&after));
            prop_assert_eq!(new_end, end);
            for (address, page) in &pages {
                match kept.get(address) {
                    Some(same) => prop_assert_eq!(same, page),
                    None => prop_assert!(page.iter().all(|&byte| byte == INT3)),
                }
            }
            prop_assert!(kept.keys().all(|address| pages.contains_key(address)));
        }

        #[test]
        fn no_damage_causes_a_panic(mut bytes in Just(image(&[(5, vec![1; 2 * PAGE], 5)])),
                                    at in 0..240_usize, byte in any::<u8>()) {
            bytes[at] = byte;
            let _ = without_padding(&bytes);
        }
    }
}
