//! The initial register state of the first vCPU. The others wait until the guest starts them (INIT
//! and SIPI, handled by KVM's interrupt controllers).

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::EngineError;
use super::kvm_error;
use crate::boot::{BootError, Entry, layout};

/// Segment selectors of the boot GDT: `__BOOT_CS` and `__BOOT_DS` of the 64-bit boot protocol, and
/// a task segment, which VMX requires.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

// Control register and EFER bits, Intel SDM volume 3A section 2.5.
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

// Page table entry bits: present, writable, large.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 1 << 1;

/// Sets the registers of `vcpu` so that it starts at `entry`.
pub(super) fn enter(
    vcpu: &VcpuFd,
    memory: &GuestMemoryMmap,
    entry: Entry,
) -> Result<(), EngineError> {
    let mut regs = kvm_regs {
        rflags: RFLAGS,
        ..Default::default()
    };
    let mut sregs = vcpu
        .get_sregs()
        .map_err(kvm_error("reading a vCPU's registers"))?;
    match entry {
        Entry::Pvh { address } => {
            regs.rip = address;
            regs.rbx = layout::PVH_START_INFO;
            flat_segments(&mut sregs, memory, false)?;
            sregs.cr0 = CR0_PE | CR0_ET;
        }
        Entry::Long { address } => {
            regs.rip = address;
            regs.rsi = layout::ZERO_PAGE;
            regs.rsp = layout::BOOT_STACK;
            regs.rbp = layout::BOOT_STACK;
            long_mode(memory)?.apply(&mut sregs);
        }
    }
    vcpu.set_sregs(&sregs)
        .map_err(kvm_error("setting a vCPU's segments"))?;
    vcpu.set_regs(&regs)
        .map_err(kvm_error("setting a vCPU's registers"))
}

/// Control and segment registers for long mode, whose tables are in guest memory.
#[derive(Debug)]
pub(crate) struct LongMode {
    sregs: kvm_sregs,
}

impl LongMode {
    /// Sets segments, page table and modes in `sregs`, and keeps the APIC base.
    pub(crate) fn apply(&self, sregs: &mut kvm_sregs) {
        let apic_base = sregs.apic_base;
        *sregs = kvm_sregs {
            apic_base,
            ..self.sregs
        };
    }
}

/// Writes a GDT and page tables that identity-map the first GiB.
///
/// # Errors
/// When guest memory is too small for them.
pub(crate) fn long_mode(memory: &GuestMemoryMmap) -> Result<LongMode, EngineError> {
    let mut sregs = kvm_sregs::default();
    flat_segments(&mut sregs, memory, true)?;
    write(memory, layout::PML4, layout::PDPT | PRESENT | WRITABLE)?;
    write(
        memory,
        layout::PDPT,
        layout::PAGE_DIRECTORY | PRESENT | WRITABLE,
    )?;
    for index in 0..512 {
        write(
            memory,
            layout::PAGE_DIRECTORY + index * 8,
            index << 21 | PRESENT | WRITABLE | LARGE,
        )?;
    }
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.efer = EFER_LME | EFER_LMA;
    Ok(LongMode { sregs })
}

fn write(memory: &GuestMemoryMmap, address: u64, value: u64) -> Result<(), EngineError> {
    memory
        .write_obj(value, GuestAddress(address))
        .map_err(|_| EngineError::Boot(BootError::Memory { address }))
}

fn flat_segments(
    sregs: &mut kvm_sregs,
    memory: &GuestMemoryMmap,
    long: bool,
) -> Result<(), EngineError> {
    let flat = kvm_segment {
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let code = kvm_segment {
        selector: CODE,
        type_: 0xb,
        l: long.into(),
        db: (!long).into(),
        ..flat
    };
    let data = kvm_segment {
        selector: DATA,
        type_: 0x3,
        db: 1,
        ..flat
    };
    let task = kvm_segment {
        selector: TASK,
        type_: 0xb,
        s: 0,
        g: 0,
        limit: 0x67,
        ..flat
    };
    for (selector, segment) in [(CODE, &code), (DATA, &data), (TASK, &task)] {
        write(
            memory,
            layout::GDT + u64::from(selector),
            descriptor(segment),
        )?;
    }
    write(memory, layout::GDT, 0)?;
    sregs.gdt = kvm_dtable {
        base: layout::GDT,
        limit: TASK + 7,
        ..Default::default()
    };
    sregs.idt = kvm_dtable::default();
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task;
    Ok(())
}

/// The GDT descriptor of `segment` (Intel SDM volume 3A figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let attributes = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    (segment.base & 0xff00_0000) << 32
        | attributes << 40
        | (limit & 0xf_0000) << 32
        | (segment.base & 0xff_ffff) << 16
        | limit & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_the_layout_linux_uses() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let mut sregs = kvm_sregs::default();
        flat_segments(&mut sregs, &memory, true).unwrap();
        let entry = |selector: u64| {
            memory
                .read_obj::<u64>(GuestAddress(layout::GDT + selector))
                .unwrap()
        };
        assert_eq!(entry(0x10), 0x00af_9b00_0000_ffff);
        assert_eq!(entry(0x18), 0x00cf_9300_0000_ffff);
        flat_segments(&mut sregs, &memory, false).unwrap();
        assert_eq!(entry(0x10), 0x00cf_9b00_0000_ffff);
    }

    #[test]
    fn the_first_gib_is_identity_mapped() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        long_mode(&memory).unwrap();
        let last = layout::PAGE_DIRECTORY + 511 * 8;
        assert_eq!(
            memory.read_obj::<u64>(GuestAddress(last)).unwrap(),
            0x3fe0_0083
        );
    }
}
