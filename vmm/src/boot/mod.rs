//! Loads a kernel, its initramfs, its command line and the firmware tables into guest memory, and
//! returns the entry point and CPU mode of the first vCPU.
//!
//! Two boot protocols are supported; the kernel file decides which one is used:
//!
//! - **PVH** (ELF with the Xen `PHYS32_ENTRY` note): 32-bit protected mode, `hvm_start_info`.
//! - **64-bit Linux boot protocol** (bzImage; ELF without the note): long mode, the zero page.
//!   Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
//!
//! The addresses are defined in [`layout`].

use std::fs::File;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

mod acpi;
mod command_line;
mod error;
mod kernel;
pub mod layout;
mod minimum;
mod parameters;
mod segments;
mod sparse_pages;

pub use command_line::CommandLine;
pub use error::BootError;
pub use minimum::minimum_memory_mib;
pub use sparse_pages::HUGE_PAGE;

/// The entry point and CPU mode of the first vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging; `ebx` holds the address of the start info.
    Pvh {
        /// The instruction pointer.
        address: u64,
    },
    /// Long mode with the first GiB identity-mapped; `rsi` holds the address of the zero page.
    Long {
        /// The instruction pointer.
        address: u64,
    },
}

/// What to boot.
#[derive(Debug)]
pub struct Boot<'a> {
    /// ELF `vmlinux` or bzImage.
    pub kernel: &'a Path,
    /// The initramfs, a newc cpio archive, if any.
    pub initramfs: Option<&'a Path>,
    /// The kernel command line.
    pub command_line: CommandLine,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// The number of vCPUs, for the ACPI tables.
    pub cpus: u32,
    /// The number of virtio-mmio devices, for the ACPI tables.
    pub virtio_devices: usize,
}

impl Boot<'_> {
    /// Loads everything into `memory`.
    ///
    /// # Errors
    /// [`BootError`]: an unreadable file, an invalid kernel, not enough memory.
    pub fn load(&self, memory: &GuestMemoryMmap) -> Result<Entry, BootError> {
        let kernel = kernel::load(memory, self.kernel, self.memory_mib())?;
        let initramfs = self
            .initramfs
            .map(|path| self.load_initramfs(path, memory, &kernel))
            .transpose()?;
        let command_line = self.command_line.to_bytes()?;
        write(memory, layout::COMMAND_LINE, &command_line)?;
        let rsdp = acpi::write(memory, self.cpus, self.virtio_devices)?;
        let info = parameters::BootInfo {
            initramfs,
            rsdp,
            memory_map: layout::memory_map(self.memory_bytes),
            command_line_length: command_line.len(),
        };
        match kernel.entry {
            Entry::Pvh { .. } => parameters::write_pvh(memory, &info)?,
            Entry::Long { .. } => parameters::write_linux(memory, &info, kernel.setup_header)?,
        }
        Ok(kernel.entry)
    }

    /// The guest-physical addresses of the huge pages ([`HUGE_PAGE`] bytes) inside the kernel image
    /// of which the kernel uses only a small part. Small pages back them more cheaply.
    ///
    /// # Errors
    /// [`BootError`]: an unreadable file, an invalid kernel.
    pub fn sparse_pages(&self) -> Result<Vec<u64>, BootError> {
        kernel::sparse_pages(self.kernel)
    }

    fn memory_mib(&self) -> u64 {
        self.memory_bytes >> 20
    }

    /// Loads the initramfs at the end of low RAM, as far from the kernel as possible. Returns its
    /// address and length.
    fn load_initramfs(
        &self,
        path: &Path,
        memory: &GuestMemoryMmap,
        kernel: &kernel::Loaded,
    ) -> Result<(u64, u64), BootError> {
        let (mut file, length) = open(path)?;
        let limit = self
            .memory_bytes
            .min(layout::MMIO_HOLE)
            .min(kernel.initramfs_limit);
        let address = limit
            .checked_sub(length)
            .map(|address| address & !0xfff)
            .filter(|address| *address >= kernel.end)
            .ok_or_else(|| BootError::TooLittleMemory {
                path: path.to_owned(),
                memory_mib: self.memory_mib(),
            })?;
        read_into(memory, address, &mut file, length, path)?;
        Ok((address, length))
    }
}

fn open(path: &Path) -> Result<(File, u64), BootError> {
    let error = |source| BootError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    if !metadata.is_file() {
        return Err(error(std::io::Error::other("it is not a regular file")));
    }
    Ok((file, metadata.len()))
}

fn read_into(
    memory: &GuestMemoryMmap,
    address: u64,
    file: &mut impl ReadVolatile,
    length: u64,
    path: &Path,
) -> Result<(), BootError> {
    let length = usize::try_from(length).map_err(|_| BootError::Memory { address })?;
    memory
        .read_exact_volatile_from(GuestAddress(address), file, length)
        .map_err(|error| BootError::Read {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })
}

fn write(memory: &GuestMemoryMmap, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|_| BootError::Memory { address })
}
