//! A kernel that resets the VM at its first instruction: the remaining boot time is the monitor's.

/// Load address.
const ADDRESS: u64 = 0x10_0000;
/// `ud2`, in 32-bit and in 64-bit mode: without an interrupt table it causes a triple fault, which
/// resets the machine.
const CODE: [u8; 2] = [0x0f, 0x0b];
/// Xen's `XEN_ELFNOTE_PHYS32_ENTRY`: the PVH entry.
const PHYS32_ENTRY: u32 = 18;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PAGE: usize = 4096;

/// The kernel as an ELF file (System V ABI, "Object Files"): one segment with the code, and one
/// note with the PVH entry point.
pub fn elf() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4u32, 8, PHYS32_ENTRY] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&ADDRESS.to_le_bytes());
    let note_at = HEADER + 2 * PROGRAM_HEADER;

    let mut file = Vec::new();
    // 64 bits, little endian, ELF version 1.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for x86-64.
    for half in [2u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for address in [ADDRESS, HEADER as u64, 0] {
        file.extend_from_slice(&address.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    // Sizes of the headers; two program headers, no sections.
    for half in [HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, readable and executable; PT_NOTE.
    program_header(&mut file, 1, 5, PAGE, ADDRESS, CODE.len());
    program_header(&mut file, 4, 4, note_at, 0, note.len());
    file.extend_from_slice(&note);
    file.resize(PAGE, 0);
    file.extend_from_slice(&CODE);
    file
}

fn program_header(file: &mut Vec<u8>, kind: u32, flags: u32, at: usize, address: u64, size: usize) {
    file.extend_from_slice(&kind.to_le_bytes());
    file.extend_from_slice(&flags.to_le_bytes());
    let alignment = if kind == 1 { PAGE as u64 } else { 4 };
    for word in [
        at as u64,
        address,
        address,
        size as u64,
        size as u64,
        alignment,
    ] {
        file.extend_from_slice(&word.to_le_bytes());
    }
}
