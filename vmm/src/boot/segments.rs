//! The segments of an ELF kernel.

use std::io::{self, Read, Seek, SeekFrom};

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD};
use vm_memory::ByteValued;

/// A kernel has far fewer program headers than this.
const MAX_SEGMENTS: u16 = 64;

/// The guest-physical ranges of the loaded segments in `file`: start, and end (exclusive). Empty if
/// the headers are invalid.
///
/// # Errors
/// When the file cannot be read, or ends inside its headers.
pub(super) fn loaded(file: &mut (impl Read + Seek)) -> io::Result<Vec<(u64, u64)>> {
    let mut header = Elf64_Ehdr::default();
    file.read_exact(header.as_mut_slice())?;
    let count = header.e_phnum;
    if count > MAX_SEGMENTS {
        return Ok(Vec::new());
    }
    file.seek(SeekFrom::Start(header.e_phoff))?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let mut segment = Elf64_Phdr::default();
        file.read_exact(segment.as_mut_slice())?;
        let (start, length) = (segment.p_paddr, segment.p_memsz);
        let Some(end) = start.checked_add(length) else {
            return Ok(Vec::new());
        };
        if segment.p_type == PT_LOAD && length > 0 {
            segments.push((start, end));
        }
    }
    Ok(segments)
}
