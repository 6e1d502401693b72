//! Identifies a kernel by the first bytes of a file.
//!
//! Two formats are bootable: a bzImage (Documentation/arch/x86/boot.rst of the kernel, "The
//! Real-Mode Kernel Header") and an ELF vmlinux for x86-64. The functions here are pure; their
//! input is untrusted.

use std::io::Read;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::Note;
use elf::segment::SegmentTable;

/// Number of bytes from the start of a file that [`identify`] needs. A bzImage has its header and
/// version string in its setup sectors (at most 64 × 512 bytes); the program headers of an ELF
/// file follow its header.
pub(crate) const HEAD: u64 = 64 << 10;

/// `HdrS` at 0x202.
const MAGIC: u32 = 0x5372_6448;

/// The first boot protocol version with `xloadflags` (Linux 3.8), the only field that indicates a
/// 64-bit entry point.
const MIN_PROTOCOL: u16 = 0x020c;

/// `XLF_KERNEL_64` of `xloadflags`.
const KERNEL_64: u16 = 1;

/// `LOADED_HIGH` of `loadflags`: a bzImage and not a zImage.
const LOADED_HIGH: u8 = 1;

/// Memory limit for decompressing the start of an xz file, in KiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// Maximum length of a version string in bytes.
const MAX_VERSION: usize = 256;

/// The lowest address of the kernel's half of a 48-bit address space.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// `XEN_ELFNOTE_PHYS32_ENTRY` (include/xen/interface/elfnote.h): the PVH entry point.
const PVH_ENTRY: u64 = 18;

/// The format of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KernelImage {
    /// A compressed kernel with its own boot code.
    BzImage {
        /// The first word of the version string in its header, if it has one.
        version: Option<String>,
        /// Minimum size of the file in bytes according to its header.
        length: u64,
    },
    /// An uncompressed ELF kernel.
    Vmlinux {
        /// Minimum size of the file in bytes: the end of its last segment or section.
        length: u64,
    },
}

impl KernelImage {
    /// Minimum size of the file in bytes according to its headers.
    pub(crate) fn length(&self) -> u64 {
        match self {
            KernelImage::BzImage { length, .. } | KernelImage::Vmlinux { length } => *length,
        }
    }
}

/// Identifies a file by its first [`HEAD`] bytes (or all of them, if it is shorter).
///
/// # Errors
/// One line with the reason why the file is not a bootable kernel.
pub(crate) fn identify(head: &[u8]) -> Result<KernelImage, String> {
    if head.is_empty() {
        return Err("it is empty".to_owned());
    }
    if head.starts_with(b"\x7fELF") {
        return elf_kernel(head);
    }
    if u32_at(head, 0x202) == Some(MAGIC) && u16_at(head, 0x1fe) == Some(0xaa55) {
        return bz_image(head);
    }
    Err(other_file(head))
}

/// What a file is that is neither a bzImage nor an ELF file.
fn other_file(head: &[u8]) -> String {
    let decompressed = match head {
        [0x1f, 0x8b, ..] => Some(("a gzip", start_of(flate2::read::GzDecoder::new(head)))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some((
            "a zstd",
            zstd::Decoder::new(head).map(start_of).unwrap_or_default(),
        )),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some((
            "an xz",
            start_of(lzma_rust2::XzReader::new_mem_limit(
                head,
                false,
                XZ_MEMORY_KIB,
            )),
        )),
        [0x02, 0x21, 0x4c, 0x18, ..] | [0x04, 0x22, 0x4d, 0x18, ..] => {
            Some(("an lz4", start_of(lz4_flex::frame::FrameDecoder::new(head))))
        }
        [b'B', b'Z', b'h', ..] => Some(("a bzip2", Vec::new())),
        _ => None,
    };
    if let Some((format, start)) = decompressed {
        return match is_cpio(&start) {
            true => format!("it is an initramfs (a cpio archive in {format} file)"),
            false => format!("it is {format} file; decompress it first"),
        };
    }
    match head {
        _ if is_cpio(head) => "it is an initramfs (a cpio archive)",
        _ if head.get(56..60) == Some(b"ARM\x64") => "it is an image for arm64",
        _ if head.get(56..60) == Some(b"RSC\x05") => "it is an image for riscv64",
        [b'M', b'Z', ..] if is_unified(head) => {
            "it is a unified kernel image; use the kernel in its section .linux"
        }
        [b'M', b'Z', ..] => "it is an EFI program",
        [b'#', b'!', ..] => "it is a script",
        _ => "it has neither a bzImage header nor an ELF header",
    }
    .to_owned()
}

/// The first bytes of a decompressed stream, as far as it can be read.
fn start_of(decoder: impl Read) -> Vec<u8> {
    let mut start = Vec::new();
    let _ = decoder.take(8).read_to_end(&mut start);
    start
}

/// Whether these are the first bytes of a cpio archive in one of the formats of an initramfs
/// (buffer-format.rst).
fn is_cpio(start: &[u8]) -> bool {
    start.starts_with(b"070701") || start.starts_with(b"070702")
}

/// Whether a PE file has the section `.linux` (Unified Kernel Image specification).
fn is_unified(head: &[u8]) -> bool {
    let sections = || {
        let header = usize::try_from(u32_at(head, 0x3c)?).ok()?;
        let count = u16_at(head, header.checked_add(6)?)?;
        let table = header.checked_add(24 + usize::from(u16_at(head, header + 20)?))?;
        let mut sections = head.get(table..)?.chunks_exact(40).take(usize::from(count));
        Some(sections.any(|section| section.starts_with(b".linux\0\0")))
    };
    sections().unwrap_or(false)
}

fn bz_image(head: &[u8]) -> Result<KernelImage, String> {
    let short = || "its boot header is truncated".to_owned();
    let protocol = u16_at(head, 0x206).ok_or_else(short)?;
    let shown = format!("{}.{:02}", protocol >> 8, protocol & 0xff);
    if protocol < MIN_PROTOCOL {
        return Err(format!(
            "its boot protocol {shown} is older than 2.12 (Linux 3.8)"
        ));
    }
    if byte_at(head, 0x211).ok_or_else(short)? & LOADED_HIGH == 0 {
        return Err("it is a zImage, which cannot contain a 64-bit kernel".to_owned());
    }
    if u16_at(head, 0x236).ok_or_else(short)? & KERNEL_64 == 0 {
        return Err("it is a 32-bit kernel".to_owned());
    }
    let system = u64::from(u32_at(head, 0x1f4).ok_or_else(short)?) * 16;
    let length = setup_length(head).ok_or_else(short)? + system;
    let version = match u16_at(head, 0x20e).ok_or_else(short)? {
        0 => None,
        offset => version_at(head, usize::from(offset) + 0x200),
    };
    Ok(KernelImage::BzImage { version, length })
}

/// The length in bytes of a bzImage's boot sector and setup code, after which the kernel begins.
pub(crate) fn setup_length(head: &[u8]) -> Option<u64> {
    let setup_sectors = match byte_at(head, 0x1f1)? {
        0 => 4, // "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
        sectors => u64::from(sectors),
    };
    Some((setup_sectors + 1) * 512)
}

/// Reads the release, the first word of the NUL-terminated version string.
fn version_at(head: &[u8], offset: usize) -> Option<String> {
    let bytes = head.get(offset..)?;
    let word = bytes
        .iter()
        .take(MAX_VERSION)
        .position(|byte| matches!(byte, 0 | b' '))?;
    release(&bytes[..word])
}

/// Validates a kernel release such as `6.1.0-28-cloud-amd64`: printable, with a leading digit.
fn release(word: &[u8]) -> Option<String> {
    let plausible = word.first()?.is_ascii_digit() && word.iter().all(u8::is_ascii_graphic);
    if plausible {
        String::from_utf8(word.to_vec()).ok()
    } else {
        None
    }
}

fn elf_kernel(head: &[u8]) -> Result<KernelImage, String> {
    let damaged = |error: elf::ParseError| format!("its ELF header is damaged: {error}");
    // The parser panics on an incomplete header.
    let header = head
        .get(..64)
        .and_then(|header| header.split_at_checked(abi::EI_NIDENT));
    let Some((ident, rest)) = header else {
        return Err("its ELF header is truncated".to_owned());
    };
    let ident = parse_ident::<LittleEndian>(ident).map_err(damaged)?;
    if ident.1 != Class::ELF64 {
        return Err("it is a 32-bit ELF file".to_owned());
    }
    let header = FileHeader::parse_tail(ident, rest).map_err(damaged)?;
    if header.e_machine != abi::EM_X86_64 {
        return Err(match header.e_machine {
            abi::EM_AARCH64 => "it is an ELF file for arm64".to_owned(),
            other => format!("it is an ELF file for another machine (type {other})"),
        });
    }
    match header.e_type {
        abi::ET_REL => return Err("it is an object file or a kernel module".to_owned()),
        abi::ET_CORE => return Err("it is a core dump".to_owned()),
        _ => {}
    }
    let Some(table) = segments(head, &header) else {
        return Err("its program headers are invalid or not at the start of the file".to_owned());
    };
    let mut kernel_half = false;
    let mut length = match header.e_shnum {
        0 => 0,
        count => header
            .e_shoff
            .saturating_add(u64::from(count) * u64::from(header.e_shentsize)),
    };
    for segment in table {
        length = length.max(segment.p_offset.saturating_add(segment.p_filesz));
        match segment.p_type {
            abi::PT_INTERP => return Err("it is a user-space program".to_owned()),
            abi::PT_LOAD => kernel_half |= segment.p_vaddr >= KERNEL_HALF,
            _ => {}
        }
    }
    // Found only if the notes are in the head of the file, as in small kernels other than Linux;
    // Linux is recognised by its addresses.
    let pvh = || {
        note_segments(head).into_iter().any(|(offset, size)| {
            let notes = usize::try_from(offset)
                .ok()
                .and_then(|start| head.get(start..start.checked_add(usize::try_from(size).ok()?)?));
            notes.is_some_and(has_pvh_note)
        })
    };
    match kernel_half || pvh() {
        false => Err("it is a user-space program".to_owned()),
        true if header.e_type != abi::ET_EXEC => Err("it is not an executable".to_owned()),
        true => Ok(KernelImage::Vmlinux { length }),
    }
}

/// The program headers, if the head contains all of them.
fn segments<'h>(
    head: &'h [u8],
    header: &FileHeader<LittleEndian>,
) -> Option<SegmentTable<'h, LittleEndian>> {
    let start = usize::try_from(header.e_phoff).ok()?;
    let size = usize::from(header.e_phnum) * usize::from(header.e_phentsize);
    let table = head.get(start..start.checked_add(size)?)?;
    (header.e_phentsize == 56).then(|| SegmentTable::new(LittleEndian, Class::ELF64, table))
}

/// The note segments of the ELF file that begins with `head`, as (offset, size) in bytes; empty if
/// it is not a valid ELF file.
pub(crate) fn note_segments(head: &[u8]) -> Vec<(u64, u64)> {
    let header = head
        .get(..64)
        .and_then(|header| header.split_at_checked(abi::EI_NIDENT))
        .and_then(|(ident, rest)| {
            let ident = parse_ident::<LittleEndian>(ident).ok()?;
            FileHeader::parse_tail(ident, rest).ok()
        });
    header
        .and_then(|header| segments(head, &header))
        .into_iter()
        .flatten()
        .filter(|segment| segment.p_type == abi::PT_NOTE)
        .map(|segment| (segment.p_offset, segment.p_filesz))
        .collect()
}

/// Whether the notes contain a PVH entry point.
pub(crate) fn has_pvh_note(notes: &[u8]) -> bool {
    elf::note::NoteIterator::new(LittleEndian, Class::ELF64, 4, notes).any(|note| {
        matches!(note, Note::Unknown(any)
            if any.n_type == PVH_ENTRY && any.name_str().is_ok_and(|name| name == "Xen"))
    })
}

/// Finds the release in the banner of an ELF kernel (`Linux version 6.1.0 (…`), which is fed in
/// chunks.
#[derive(Debug, Default)]
pub(crate) struct BannerSearch {
    tail: Vec<u8>,
    found: Option<String>,
}

impl BannerSearch {
    const BANNER: &'static [u8] = b"Linux version ";

    /// Searches the next bytes of the file.
    pub(crate) fn feed(&mut self, chunk: &[u8]) {
        if self.found.is_some() {
            return;
        }
        self.tail.extend_from_slice(chunk);
        let mut from = 0;
        while let Some(at) = find(&self.tail[from..], Self::BANNER) {
            let start = from + at + Self::BANNER.len();
            let rest = &self.tail[start..];
            match rest
                .iter()
                .take(MAX_VERSION)
                .position(|byte| !byte.is_ascii_graphic())
            {
                Some(end) => {
                    if let Some(version) = release(&rest[..end]) {
                        self.found = Some(version);
                        return;
                    }
                }
                // The word continues in the next chunk: keep the banner.
                None if rest.len() < MAX_VERSION => {
                    self.tail.drain(..start - Self::BANNER.len());
                    return;
                }
                None => {}
            }
            from = start;
        }
        let keep = self.tail.len().min(Self::BANNER.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
    }

    /// The release, if the banner was found.
    pub(crate) fn finish(self) -> Option<String> {
        self.found
    }
}

pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        if haystack[from + at + 1..].starts_with(rest) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn byte_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
