use super::*;
use proptest::prelude::*;

/// A minimal valid header: 3 setup sectors, 0x100 paragraphs.
fn header() -> Vec<u8> {
    let mut head = vec![0; 4096];
    head[0x1f1] = 3;
    head[0x1f4..0x1f8].copy_from_slice(&0x100_u32.to_le_bytes());
    head[0x1fe..0x200].copy_from_slice(&0xaa55_u16.to_le_bytes());
    head[0x202..0x206].copy_from_slice(b"HdrS");
    head[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    head[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
    head[0x211] = 1;
    head[0x236..0x238].copy_from_slice(&3_u16.to_le_bytes());
    head[0x500..0x511].copy_from_slice(b"6.1.9-x (a@b) #1\0");
    head
}

#[test]
fn a_64_bit_bz_image_is_recognised_with_its_version_and_length() {
    let image = KernelImage::BzImage {
        version: Some("6.1.9-x".into()),
        length: 2048 + 4096,
    };
    assert_eq!(identify(&header()), Ok(image));
}

#[test]
fn an_unbootable_file_is_refused_with_the_reason() {
    let with = |offset: usize, bytes: &[u8]| {
        let mut head = header();
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        identify(&head).unwrap_err()
    };
    assert_eq!(with(0x236, &[0, 0]), "it is a 32-bit kernel");
    assert_eq!(
        with(0x211, &[0]),
        "it is a zImage, which cannot contain a 64-bit kernel"
    );
    assert_eq!(
        with(0x206, &[6, 2]),
        "its boot protocol 2.06 is older than 2.12 (Linux 3.8)"
    );
    assert_eq!(
        identify(&header()[..0x210]).unwrap_err(),
        "its boot header is truncated"
    );
    assert_eq!(identify(b"").unwrap_err(), "it is empty");
    assert_eq!(
        identify(b"\x7fELF\x02\x01").unwrap_err(),
        "its ELF header is truncated"
    );
    assert_eq!(identify(b"#!/bin/sh\n").unwrap_err(), "it is a script");
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(
        identify(&program[..HEAD as usize]).unwrap_err(),
        "it is a user-space program"
    );
}

fn cpio() -> Vec<u8> {
    let mut archive = Vec::new();
    let writer = cpio::newc::Builder::new("init").write(&mut archive, 0);
    writer.finish().unwrap();
    cpio::newc::trailer(archive).unwrap()
}

#[test]
fn a_compressed_file_is_refused_with_what_is_in_it() {
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let lz4 = |bytes: &[u8]| {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let initramfs = cpio();
    let vmlinux = b"\x7fELF\x02\x01\x01 and so on".as_slice();
    for (packed, why) in [
        (
            gzip(&initramfs),
            "it is an initramfs (a cpio archive in a gzip file)",
        ),
        (
            zstd(&initramfs),
            "it is an initramfs (a cpio archive in a zstd file)",
        ),
        (
            lz4(&initramfs),
            "it is an initramfs (a cpio archive in an lz4 file)",
        ),
        (initramfs.clone(), "it is an initramfs (a cpio archive)"),
        (gzip(vmlinux), "it is a gzip file; decompress it first"),
        (zstd(vmlinux), "it is a zstd file; decompress it first"),
        (lz4(vmlinux), "it is an lz4 file; decompress it first"),
        (
            gzip(vmlinux)[..12].to_vec(),
            "it is a gzip file; decompress it first",
        ),
        (
            b"\xfd7zXZ\0cut".to_vec(),
            "it is an xz file; decompress it first",
        ),
    ] {
        assert_eq!(identify(&packed).unwrap_err(), why);
    }
}

#[test]
fn an_efi_program_is_not_a_kernel_and_a_unified_image_is_named() {
    let mut program = vec![0; 1024];
    program[..2].copy_from_slice(b"MZ");
    program[0x3c] = 0x80;
    program[0x80..0x84].copy_from_slice(b"PE\0\0");
    program[0x86] = 3;
    program[0x94] = 0xf0;
    let table = 0x80 + 24 + 0xf0;
    assert_eq!(identify(&program).unwrap_err(), "it is an EFI program");
    program[table + 80..table + 86].copy_from_slice(b".linux");
    assert_eq!(
        identify(&program).unwrap_err(),
        "it is a unified kernel image; use the kernel in its section .linux"
    );
    program[0x3c..0x40].copy_from_slice(&[0xff; 4]);
    assert_eq!(identify(&program).unwrap_err(), "it is an EFI program");
    program[56..60].copy_from_slice(b"RSC\x05");
    assert_eq!(
        identify(&program).unwrap_err(),
        "it is an image for riscv64"
    );
}

/// An ELF header and one loadable segment of the kernel at the end of the file.
fn vmlinux(kind: u8) -> Vec<u8> {
    let mut elf = vec![0; 64 + 56];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = kind;
    elf[18] = 62;
    elf[20] = 1;
    elf[32] = 64; // e_phoff
    elf[54] = 56; // e_phentsize
    elf[56] = 1; // e_phnum
    elf[64] = 1; // PT_LOAD
    elf[72..80].copy_from_slice(&4096_u64.to_le_bytes());
    elf[80..88].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
    elf[96..104].copy_from_slice(&300_u64.to_le_bytes());
    elf
}

#[test]
fn the_length_of_a_vmlinux_includes_its_segments_and_sections() {
    let mut elf = vmlinux(2);
    assert_eq!(
        identify(&elf),
        Ok(KernelImage::Vmlinux { length: 4096 + 300 })
    );
    elf[40..48].copy_from_slice(&8000_u64.to_le_bytes()); // e_shoff
    elf[58] = 64; // e_shentsize
    elf[60] = 3; // e_shnum
    assert_eq!(
        identify(&elf),
        Ok(KernelImage::Vmlinux { length: 8000 + 192 })
    );
    elf[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        identify(&elf),
        Ok(KernelImage::Vmlinux { length: u64::MAX })
    );
}

#[test]
fn an_elf_file_of_another_type_is_refused() {
    for (kind, why) in [
        (1, "it is an object file or a kernel module"),
        (3, "it is not an executable"),
        (4, "it is a core dump"),
    ] {
        assert_eq!(identify(&vmlinux(kind)).unwrap_err(), why);
    }
    let mut elf = vmlinux(2);
    elf[18] = 183;
    assert_eq!(identify(&elf).unwrap_err(), "it is an ELF file for arm64");
    elf[4] = 1;
    assert_eq!(identify(&elf).unwrap_err(), "it is a 32-bit ELF file");
}

#[test]
fn the_banner_is_found_across_chunks() {
    let mut bytes = vec![b'L'; 5000];
    bytes.extend_from_slice(b"Linux version %s\0 Linux version 6.1.0-56-cloud (debian) ");
    for size in [1, 7, 13, 64, 10_000] {
        let mut search = BannerSearch::default();
        bytes.chunks(size).for_each(|chunk| search.feed(chunk));
        assert_eq!(
            search.finish().as_deref(),
            Some("6.1.0-56-cloud"),
            "chunks of {size}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let _ = identify(&bytes);
    }

    #[test]
    fn a_damaged_header_never_panics(
        changes in proptest::collection::vec((0_usize..0x600, any::<u8>()), 0..40),
        length in 0_usize..4096,
    ) {
        let mut head = header();
        for (offset, byte) in changes {
            head[offset] = byte;
        }
        let _ = identify(&head[..length]);
    }

    #[test]
    fn a_damaged_elf_header_never_panics(
        changes in proptest::collection::vec((16_usize..512, any::<u8>()), 0..40),
        length in 0_usize..4096,
    ) {
        let mut head = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        head.truncate(4096);
        for (offset, byte) in changes {
            head[offset] = byte;
        }
        let _ = identify(&head[..length]);
    }
}
