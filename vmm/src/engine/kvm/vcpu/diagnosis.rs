//! What a vCPU does, for the report on a VM that seems to hang.

use std::fmt;

use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED};
use kvm_ioctls::VcpuFd;

/// `RFLAGS.IF`: the processor accepts interrupts.
const INTERRUPTS_ENABLED: u64 = 1 << 9;

/// Offsets of the first of eight 32-bit registers, 16 bytes apart, in the local APIC's page
/// (Intel SDM volume 3A, table 11-1): vectors in service, vectors requested.
const IN_SERVICE: usize = 0x100;
const REQUESTED: usize = 0x200;

/// The state of a vCPU that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct VcpuReport {
    rip: u64,
    rsp: u64,
    rflags: u64,
    mp_state: u32,
    in_service: Vec<u8>,
    requested: Vec<u8>,
}

impl VcpuReport {
    /// Reads the vCPU, which must not run meanwhile.
    ///
    /// # Errors
    /// Those of KVM.
    pub(in super::super) fn read(vcpu: &VcpuFd) -> Result<VcpuReport, kvm_ioctls::Error> {
        let regs = vcpu.get_regs()?;
        let apic = vcpu.get_lapic()?.regs.map(|byte| byte as u8);
        Ok(VcpuReport {
            rip: regs.rip,
            rsp: regs.rsp,
            rflags: regs.rflags,
            mp_state: vcpu.get_mp_state()?.mp_state,
            in_service: vectors(&apic, IN_SERVICE),
            requested: vectors(&apic, REQUESTED),
        })
    }
}

/// The interrupt vectors whose bits are set in the eight registers at `offset`.
fn vectors(apic: &[u8], offset: usize) -> Vec<u8> {
    let is_set = |vector: u8| {
        let (register, bit) = (usize::from(vector) / 32, usize::from(vector) % 32);
        let byte = apic.get(offset + 16 * register + bit / 8);
        byte.is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
    };
    (0..=u8::MAX).filter(|&vector| is_set(vector)).collect()
}

impl fmt::Display for VcpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activity = match self.mp_state {
            KVM_MP_STATE_RUNNABLE => "running",
            KVM_MP_STATE_HALTED => "halted",
            KVM_MP_STATE_UNINITIALIZED => "not started",
            _ => "waiting to be started",
        };
        let enabled = self.rflags & INTERRUPTS_ENABLED != 0;
        write!(
            f,
            "{activity}, rip {:#x}, rsp {:#x}, rflags {:#x}, interrupts {}, in service {}, pending {}",
            self.rip,
            self.rsp,
            self.rflags,
            if enabled { "enabled" } else { "disabled" },
            list(&self.in_service),
            list(&self.requested),
        )
    }
}

fn list(vectors: &[u8]) -> String {
    if vectors.is_empty() {
        return "none".to_owned();
    }
    let vectors: Vec<String> = vectors
        .iter()
        .map(|vector| format!("{vector:#x}"))
        .collect();
    vectors.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_found_in_each_register() {
        let mut apic = [0; 1024];
        apic[0x100] = 1;
        apic[0x173] = 0x80;
        apic[0x210 + 2] = 0x02;
        assert_eq!(vectors(&apic, IN_SERVICE), [0, 255]);
        assert_eq!(vectors(&apic, REQUESTED), [32 + 17]);
    }

    #[test]
    fn a_state_is_one_line() {
        let state = VcpuReport {
            rip: 0xffff_ffff_8100_0000,
            rsp: 0x1000,
            rflags: 0x202,
            mp_state: KVM_MP_STATE_HALTED,
            in_service: Vec::new(),
            requested: vec![0x21, 0xec],
        };
        assert_eq!(
            state.to_string(),
            "halted, rip 0xffffffff81000000, rsp 0x1000, rflags 0x202, interrupts enabled, \
             in service none, pending 0x21 0xec"
        );
    }
}
