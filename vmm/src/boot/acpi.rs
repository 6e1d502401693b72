//! The ACPI tables: the minimum with which a distribution kernel finds its CPUs, interrupt
//! controllers and virtio-mmio devices, and can power off and reset.
//!
//! Hardware-reduced ACPI (ACPI 6.5 section 4.1): no PM timer, no SCI, no legacy devices. The kernel
//! does not probe devices that are not described.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use super::layout;

const OEM: [u8; 6] = *b"MAGENT";
const TABLE: [u8; 8] = *b"MICROVM ";

/// `IAPC_BOOT_ARCH` (ACPI 6.5 table 5.10): no VGA, no CMOS clock. The bits for legacy devices and
/// the i8042 are clear, which means that they are absent.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_CMOS: u16 = 1 << 5;

/// Writes the tables for `cpus` vCPUs and `virtio_devices` devices and returns the address of the
/// RSDP.
///
/// # Errors
/// When the tables do not fit into their range of guest memory.
pub fn write(memory: &GuestMemoryMmap, cpus: u32, virtio_devices: usize) -> Result<u64, BootError> {
    let mut writer = TableWriter {
        memory,
        next: layout::ACPI + Rsdp::len() as u64,
    };
    let dsdt = writer.put(dsdt(virtio_devices).as_slice())?;
    let fadt = writer.put_aml(&fadt(dsdt))?;
    let madt = writer.put_aml(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, 1);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = writer.put_aml(&xsdt)?;
    writer.next = layout::ACPI;
    writer.put_aml(&Rsdp::new(OEM, xsdt))
}

struct TableWriter<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl TableWriter<'_> {
    fn put_aml(&mut self, table: &dyn Aml) -> Result<u64, BootError> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<u64, BootError> {
        let address = self.next.next_multiple_of(16);
        let end = address + bytes.len() as u64;
        if end > layout::ACPI + layout::ACPI_SIZE {
            return Err(BootError::Memory { address: end });
        }
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| BootError::Memory { address })?;
        self.next = end;
        Ok(address)
    }
}

/// The DSDT with the devices: COM1 and the virtio-mmio transports (`LNRO0005`, the id to which
/// Linux's `virtio_mmio` driver binds).
fn dsdt(virtio_devices: usize) -> Sdt {
    let mut aml = Vec::new();
    Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 1, 8),
                    &Interrupt::new(true, true, false, false, layout::SERIAL_GSI),
                ]),
            ),
        ],
    )
    .to_aml_bytes(&mut aml);
    for index in 0..virtio_devices {
        let name = format!("V{index:03}");
        // The layout places the registers below 4 GiB.
        let registers = Memory32Fixed::new(
            true,
            layout::virtio_mmio(index) as u32,
            layout::VIRTIO_MMIO_SIZE as u32,
        );
        let interrupt = Interrupt::new(
            true,
            true,
            false,
            false,
            layout::FIRST_VIRTIO_GSI + index as u32,
        );
        Scope::new(
            "_SB_".into(),
            vec![&Device::new(
                Path::new(&name),
                vec![
                    &Name::new("_HID".into(), &"LNRO0005"),
                    &Name::new("_UID".into(), &(index as u32)),
                    &Name::new("_CCA".into(), &1u8),
                    &Name::new(
                        "_CRS".into(),
                        &ResourceTemplate::new(vec![&registers, &interrupt]),
                    ),
                ],
            )],
        )
        .to_aml_bytes(&mut aml);
    }
    Name::new(
        "_S5_".into(),
        &Package::new(vec![&layout::SLEEP_TYPE_S5, &0u8, &0u8, &0u8]),
    )
    .to_aml_bytes(&mut aml);
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, 1);
    table.append_slice(&aml);
    table
}

fn port(address: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address.into(),
    )
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // The buttons are not fixed hardware; there are none.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS).into();
    fadt.reset_reg = port(layout::RESET_PORT);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.sleep_control_reg = port(layout::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(layout::SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(cpus: u32) -> MADT {
    let mut madt = MADT::new(
        OEM,
        TABLE,
        1,
        LocalInterruptController::Address(layout::LOCAL_APIC as u32),
    );
    for cpu in 0..cpus.min(255) {
        madt.add_structure(ProcessorLocalApic::new(
            cpu as u8,
            cpu as u8,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC as u32, 0));
    madt
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn tables() -> (GuestMemoryMmap, u64) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
        let rsdp = write(&memory, 4, 3).unwrap();
        (memory, rsdp)
    }

    fn table(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_from_the_rsdp_and_sums_to_zero() {
        let (memory, rsdp) = tables();
        assert_eq!(rsdp, 0xe_0000);
        let mut header = [0; 36];
        memory.read_slice(&mut header, GuestAddress(rsdp)).unwrap();
        assert_eq!(&header[..8], b"RSD PTR ");
        assert_eq!(sum(&header), 0);
        let xsdt = table(&memory, memory.read_obj(GuestAddress(rsdp + 24)).unwrap());
        assert_eq!(
            (&xsdt[..4], sum(&xsdt), xsdt.len()),
            (&b"XSDT"[..], 0, 36 + 2 * 8)
        );
        let entry = |n: usize| {
            let bytes = &xsdt[36 + 8 * n..44 + 8 * n];
            table(&memory, u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        let (fadt, madt) = (entry(0), entry(1));
        assert_eq!((&fadt[..4], sum(&fadt)), (&b"FACP"[..], 0));
        assert_eq!((&madt[..4], sum(&madt)), (&b"APIC"[..], 0));
        let dsdt = table(
            &memory,
            u64::from_le_bytes(fadt[140..148].try_into().unwrap()),
        );
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
    }

    /// ACPICA's disassembler must accept the DSDT.
    #[test]
    fn the_reference_disassembler_finds_the_devices() {
        let Ok(true) = Command::new("iasl")
            .arg("-v")
            .output()
            .map(|o| o.status.success())
        else {
            panic!("this test needs iasl (package acpica-tools)");
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dsdt.aml");
        std::fs::write(&file, dsdt(3).as_slice()).unwrap();
        let output = Command::new("iasl").arg("-d").arg(&file).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let source = std::fs::read_to_string(dir.path().join("dsdt.dsl")).unwrap();
        assert_eq!(source.matches("\"LNRO0005\"").count(), 3, "{source}");
        assert!(
            source.contains("0xD0002000,         // Address Base"),
            "{source}"
        );
        assert!(source.contains("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive"));
        assert!(source.contains("Name (_S5"), "{source}");
    }
}
