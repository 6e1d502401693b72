//! Loads a kernel file into guest memory and determines its entry point.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, Error as LoaderError, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{BootError, Entry, layout, open, sparse_pages};

/// `xloadflags` bit 0: the kernel has the 64-bit entry at 0x200 (boot.rst).
const XLF_KERNEL_64: u16 = 1 << 0;
/// The distance from a bzImage's load address to its 64-bit entry (boot.rst).
const ENTRY_64_OFFSET: u64 = 0x200;
/// `initrd_addr_max` of kernels that do not set it (boot.rst).
const INITRD_ADDR_MAX: u64 = 0x37ff_ffff;

/// A kernel in guest memory.
pub(super) struct Loaded {
    /// The entry point.
    pub entry: Entry,
    /// The end of the memory that the kernel uses while it unpacks itself.
    pub end: u64,
    /// The initramfs must end at or below this address.
    pub initramfs_limit: u64,
    /// The setup header of a bzImage, to be copied into the zero page.
    pub setup_header: Option<setup_header>,
}

pub(super) fn load(
    memory: &GuestMemoryMmap,
    path: &Path,
    memory_mib: u64,
) -> Result<Loaded, BootError> {
    let (mut file, length) = open(path)?;
    let not_a_kernel = |why: &str| BootError::NotAKernel {
        path: path.to_owned(),
        why: why.into(),
    };
    if length > memory_mib << 20 {
        return Err(BootError::TooLittleMemory {
            path: path.to_owned(),
            memory_mib,
        });
    }
    let is_elf = is_elf(&mut file, path)?;
    let highest = Some(GuestAddress(layout::HIGH_RAM));
    let result = if is_elf {
        require_x86_64(&mut file, path)?;
        Elf::load(memory, None, &mut file, highest)
    } else {
        BzImage::load(memory, None, &mut file, highest)
    };
    let loaded =
        result.map_err(|error| match error {
            LoaderError::Elf(linux_loader::loader::elf::Error::ReadKernelImage)
            | LoaderError::Bzimage(
                linux_loader::loader::bzimage::Error::ReadBzImageCompressedKernel,
            ) => BootError::TooLittleMemory {
                path: path.to_owned(),
                memory_mib,
            },
            other if is_elf => not_a_kernel(&other.to_string()),
            _ => not_a_kernel("it is neither ELF nor bzImage"),
        })?;
    if let Some(header) = loaded.setup_header {
        let (version, flags) = (header.version, header.xloadflags);
        if version < 0x20c || flags & XLF_KERNEL_64 == 0 {
            return Err(not_a_kernel("it has no 64-bit entry"));
        }
        let (preferred, init_size) = (header.pref_address, header.init_size);
        let unpacked = preferred
            .max(loaded.kernel_load.0)
            .saturating_add(init_size.into());
        Ok(Loaded {
            entry: Entry::Long {
                address: loaded.kernel_load.0 + ENTRY_64_OFFSET,
            },
            end: unpacked.max(loaded.kernel_end),
            initramfs_limit: u64::from(header.initrd_addr_max).max(INITRD_ADDR_MAX) + 1,
            setup_header: Some(header),
        })
    } else {
        let entry = match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh { address: address.0 },
            _ => Entry::Long {
                address: loaded.kernel_load.0,
            },
        };
        Ok(Loaded {
            entry,
            end: loaded.kernel_end,
            initramfs_limit: layout::MMIO_HOLE,
            setup_header: None,
        })
    }
}

/// The huge pages of which an ELF kernel uses only a small part; empty for other formats.
pub(super) fn sparse_pages(path: &Path) -> Result<Vec<u64>, BootError> {
    let (mut file, _) = open(path)?;
    if !is_elf(&mut file, path)? {
        return Ok(Vec::new());
    }
    require_x86_64(&mut file, path)?;
    sparse_pages::find(&mut file).map_err(read_error(path))
}

pub(super) fn is_elf(file: &mut (impl Read + Seek), path: &Path) -> Result<bool, BootError> {
    let mut magic = [0; 4];
    let read = file
        .read(&mut magic)
        .and_then(|read| file.rewind().map(|()| read));
    Ok(read.map_err(read_error(path))? == 4 && &magic == b"\x7fELF")
}

pub(super) fn read_error(path: &Path) -> impl FnOnce(std::io::Error) -> BootError {
    let path = path.to_owned();
    move |source| BootError::Read { path, source }
}

/// Requires an executable file for x86-64: any other ELF file would be loaded and then crash
/// without a message.
fn require_x86_64(file: &mut (impl Read + Seek), path: &Path) -> Result<(), BootError> {
    const ET_EXEC: u16 = 2;
    const EM_X86_64: u16 = 62;
    let mut header = [0; 20];
    let result = file
        .read_exact(&mut header)
        .and_then(|()| file.seek(SeekFrom::Start(0)));
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let why = match result {
        Err(_) => "it ends inside its ELF header".to_owned(),
        Ok(_) if half(18) != EM_X86_64 => format!("it is ELF for machine {}", half(18)),
        Ok(_) if half(16) != ET_EXEC => "it is ELF, but not an executable".to_owned(),
        Ok(_) => return Ok(()),
    };
    Err(BootError::NotAKernel {
        path: path.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn load_bytes(bytes: &[u8]) -> Result<Loaded, BootError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        load(&memory, file.path(), 16)
    }

    fn why(bytes: &[u8]) -> String {
        match load_bytes(bytes) {
            Err(BootError::NotAKernel { why, .. }) => why,
            Err(other) => other.to_string(),
            Ok(_) => "it was loaded".into(),
        }
    }

    #[test]
    fn an_invalid_kernel_is_refused_with_the_reason() {
        assert_eq!(why(b""), "it is neither ELF nor bzImage");
        assert_eq!(why(b"#!/bin/sh\n"), "it is neither ELF nor bzImage");
        assert_eq!(why(b"\x7fELF"), "it ends inside its ELF header");
        assert_eq!(
            why(&std::fs::read("/proc/self/exe").unwrap()[..4096]),
            "it is ELF, but not an executable"
        );
        let mut arm = vec![0; 64];
        arm[..4].copy_from_slice(b"\x7fELF");
        arm[16] = 2;
        arm[18] = 183;
        assert_eq!(why(&arm), "it is ELF for machine 183");
    }

    #[test]
    fn a_32_bit_bzimage_is_refused() {
        let mut image = vec![0; 8192];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x211] = 1;
        image[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
        assert_eq!(why(&image), "it has no 64-bit entry");
    }

    proptest! {
        #[test]
        fn no_header_makes_the_loader_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..4096),
            kind in 0..3,
        ) {
            if kind == 1 && bytes.len() > 0x206 {
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
            }
            if kind == 2 && bytes.len() > 20 {
                bytes[..4].copy_from_slice(b"\x7fELF");
                bytes[16..20].copy_from_slice(&[2, 0, 62, 0]);
            }
            let _ = load_bytes(&bytes);
        }
    }
}
