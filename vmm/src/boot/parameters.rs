//! Boot parameters for the kernel: the zero page, or the PVH start info.

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{BootError, layout};

/// `XEN_HVM_START_MAGIC_VALUE` (Xen `start_info.h`).
const PVH_MAGIC: u32 = 0x336e_c578;
/// E820 type of usable RAM, the same in PVH's memory map.
const RAM: u32 = 1;
/// `type_of_loader`: undefined (boot.rst).
const LOADER_UNDEFINED: u8 = 0xff;
/// `boot_flag` and `header` of the setup header, for ELF kernels, which have none.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;

/// The values that both boot protocols pass to the kernel.
pub(super) struct BootInfo {
    /// Address and length, if there is an initramfs.
    pub initramfs: Option<(u64, u64)>,
    pub rsdp: u64,
    /// Address and length of each range of RAM.
    pub memory_map: Vec<(u64, u64)>,
    /// In bytes, with the final NUL.
    pub command_line_length: usize,
}

pub(super) fn write_pvh(memory: &GuestMemoryMmap, info: &BootInfo) -> Result<(), BootError> {
    let start_info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: info.initramfs.is_some().into(),
        modlist_paddr: layout::PVH_MODULES,
        cmdline_paddr: layout::COMMAND_LINE,
        rsdp_paddr: info.rsdp,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: info.memory_map.len() as u32,
        ..Default::default()
    };
    let map: Vec<_> = info
        .memory_map
        .iter()
        .map(|&(addr, size)| hvm_memmap_table_entry {
            addr,
            size,
            type_: RAM,
            reserved: 0,
        })
        .collect();
    let mut params = BootParams::new(&start_info, GuestAddress(layout::PVH_START_INFO));
    if let Some((paddr, size)) = info.initramfs {
        let module = hvm_modlist_entry {
            paddr,
            size,
            ..Default::default()
        };
        params.set_modules(&[module], GuestAddress(layout::PVH_MODULES));
    }
    params.set_sections(&map, GuestAddress(layout::PVH_MEMORY_MAP));
    PvhBootConfigurator::write_bootparams(&params, memory).map_err(|_| BootError::Memory {
        address: layout::PVH_START_INFO,
    })
}

pub(super) fn write_linux(
    memory: &GuestMemoryMmap,
    info: &BootInfo,
    header: Option<setup_header>,
) -> Result<(), BootError> {
    let hdr = header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    });
    let mut params = boot_params {
        hdr,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
    params.hdr.cmdline_size = info.command_line_length as u32 - 1;
    // The initramfs lies below the MMIO hole, so both values fit into 32 bits. Without an initramfs
    // both are 0 (boot.rst).
    let (address, length) = info.initramfs.unwrap_or_default();
    params.hdr.ramdisk_image = address as u32;
    params.hdr.ramdisk_size = length as u32;
    params.acpi_rsdp_addr = info.rsdp;
    for (slot, &(addr, size)) in params.e820_table.iter_mut().zip(&info.memory_map) {
        *slot = boot_e820_entry {
            addr,
            size,
            r#type: RAM,
        };
    }
    params.e820_entries = info.memory_map.len() as u8;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::ZERO_PAGE)),
        memory,
    )
    .map_err(|_| BootError::Memory {
        address: layout::ZERO_PAGE,
    })
}
