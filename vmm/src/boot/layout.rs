//! The guest-physical address map, in order of address.
//!
//! ```text
//! 0x0000_0500  GDT                     used until the kernel loads its own
//! 0x0000_6000  PVH start info, its module list and its memory map
//! 0x0000_7000  zero page (boot_params) of the Linux boot protocol
//! 0x0000_8000  boot stack, grows down from 0x0000_8ff0
//! 0x0000_9000  page tables: PML4, PDPT, one page directory
//! 0x0002_0000  kernel command line
//! 0x0009_fc00  end of conventional memory
//! 0x000e_0000  ACPI tables, the RSDP first
//! 0x0010_0000  kernel and the rest of low RAM, with the initramfs at the end
//! 0xc000_0000  MMIO hole: virtio-mmio devices, I/O APIC, local APIC, KVM's pages
//! 1_0000_0000  the RAM above 3 GiB
//! ```

/// Where the boot GDT is written.
pub const GDT: u64 = 0x500;

/// PVH `hvm_start_info` (Xen `start_info.h`).
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH module list: one entry, for the initramfs.
pub const PVH_MODULES: u64 = 0x6040;
/// PVH memory map.
pub const PVH_MEMORY_MAP: u64 = 0x6080;

/// The zero page (`boot_params`, Documentation/arch/x86/zero-page.rst).
pub const ZERO_PAGE: u64 = 0x7000;

/// The initial stack pointer.
pub const BOOT_STACK: u64 = 0x8ff0;

/// Page map level 4 of the boot page tables.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: 512 entries of 2 MiB, which map the first GiB.
pub const PAGE_DIRECTORY: u64 = 0xb000;

/// The kernel command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Its maximum length with the final NUL, in bytes (`COMMAND_LINE_SIZE` of x86 Linux).
pub const COMMAND_LINE_MAX: usize = 2048;

/// The end of conventional memory. The range up to [`HIGH_RAM`] is not described as RAM.
pub const LOW_RAM_END: u64 = 0x9_fc00;

/// ACPI tables, inside the range in which a kernel searches for the RSDP.
pub const ACPI: u64 = 0xe_0000;
/// The size of that range, in bytes.
pub const ACPI_SIZE: u64 = 0x2_0000;

/// The start of high RAM, and the lowest address of a kernel.
pub const HIGH_RAM: u64 = 0x10_0000;

/// The start of the MMIO hole below 4 GiB.
pub const MMIO_HOLE: u64 = 0xc000_0000;
/// The first virtio-mmio device.
pub const VIRTIO_MMIO: u64 = 0xd000_0000;
/// The size of one virtio-mmio device's registers, and the distance between devices.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// The I/O APIC of KVM's interrupt controllers.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// One page that KVM uses on Intel hosts (`KVM_SET_IDENTITY_MAP_ADDR`).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM uses on Intel hosts (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: u64 = 0xfffb_d000;
/// The end of the MMIO hole, where the remaining RAM starts.
pub const FOUR_GIB: u64 = 1 << 32;

/// The first GSI for virtio devices: the I/O APIC's pins above the ISA interrupts.
pub const FIRST_VIRTIO_GSI: u32 = 16;
/// One past the last GSI: the I/O APIC has 24 pins.
pub const GSI_END: u32 = 24;

/// The GSI of the serial port (COM1).
pub const SERIAL_GSI: u32 = 4;
/// The first I/O port of the serial port (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;

/// ACPI sleep control register (ACPI 6.5 section 4.8.3.7), used by the guest to power off.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register (ACPI 6.5 section 4.8.3.6).
pub const RESET_PORT: u16 = 0x602;
/// The value that resets the machine.
pub const RESET_VALUE: u8 = 1;
/// The sleep type of S5 (soft off), as in the DSDT's `_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;

/// The maximum number of virtio devices: each has its own GSI.
pub const MAX_VIRTIO_DEVICES: usize = (GSI_END - FIRST_VIRTIO_GSI) as usize;

const _: () = {
    assert!(PVH_MEMORY_MAP + 16 * 24 <= ZERO_PAGE);
    assert!(ZERO_PAGE + 0x1000 <= BOOT_STACK);
    assert!(COMMAND_LINE + COMMAND_LINE_MAX as u64 <= LOW_RAM_END);
    assert!(ACPI + ACPI_SIZE == HIGH_RAM);
    assert!(VIRTIO_MMIO + VIRTIO_MMIO_SIZE * MAX_VIRTIO_DEVICES as u64 <= IO_APIC);
};

/// The address of the virtio-mmio device with this index.
pub fn virtio_mmio(index: usize) -> u64 {
    VIRTIO_MMIO + VIRTIO_MMIO_SIZE * index as u64
}

/// The RAM of a guest with `bytes` of memory, as (address, length) pairs around the hole.
pub fn ram(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= MMIO_HOLE {
        vec![(0, bytes)]
    } else {
        vec![(0, MMIO_HOLE), (FOUR_GIB, bytes - MMIO_HOLE)]
    }
}

/// The memory map for the kernel: RAM only. Reserved ranges are omitted.
pub fn memory_map(bytes: u64) -> Vec<(u64, u64)> {
    let mut map = vec![(0, LOW_RAM_END)];
    for (start, length) in ram(bytes) {
        if start == 0 {
            map.push((HIGH_RAM, length.saturating_sub(HIGH_RAM)));
        } else {
            map.push((start, length));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_around_the_hole() {
        assert_eq!(ram(GIB), [(0, GIB)]);
        assert_eq!(ram(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(ram(8 * GIB), [(0, 3 * GIB), (4 * GIB, 5 * GIB)]);
    }

    #[test]
    fn the_memory_map_leaves_out_the_tables() {
        assert_eq!(
            memory_map(4 * GIB),
            [
                (0, 0x9_fc00),
                (0x10_0000, 3 * GIB - 0x10_0000),
                (4 * GIB, GIB)
            ]
        );
    }
}
