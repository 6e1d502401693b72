//! Model-specific registers that differ from KVM's reset values.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::super::EngineError;
use super::cpuid::Vendor;
use super::kvm_error;

/// `IA32_MISC_ENABLE` (Intel SDM volume 4).
const MISC_ENABLE: u32 = 0x1a0;
/// Fast strings: `rep movs` and `rep stos` work on whole cache lines. Firmware sets it, KVM does
/// not. Without it, Linux stops using these instructions for copying and clearing memory
/// (arch/x86/kernel/cpu/intel.c).
const FAST_STRINGS: u64 = 1 << 0;

/// The bits to set in each register.
fn bits(vendor: Vendor) -> &'static [(u32, u64)] {
    match vendor {
        Vendor::Intel => &[(MISC_ENABLE, FAST_STRINGS)],
        Vendor::Amd | Vendor::Other => &[],
    }
}

/// Sets the registers of a vCPU.
///
/// # Errors
/// When KVM fails.
pub(super) fn set(vcpu: &VcpuFd, vendor: Vendor) -> Result<(), EngineError> {
    for &(index, bits) in bits(vendor) {
        let mut msrs = one(index, 0);
        let read = vcpu
            .get_msrs(&mut msrs)
            .map_err(kvm_error("reading a vCPU's MSRs"))?;
        let before = msrs.as_slice().first().map_or(0, |entry| entry.data);
        let written = vcpu
            .set_msrs(&one(index, before | bits))
            .map_err(kvm_error("setting a vCPU's MSRs"))?;
        if (read, written) != (1, 1) {
            tracing::warn!("KVM does not let MSR {index:#x} be set; the guest will be slower");
        }
    }
    Ok(())
}

fn one(index: u32, data: u64) -> Msrs {
    let entry = kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[entry]).expect("a list has room for one entry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_strings_are_on_for_intel_only() {
        assert_eq!(bits(Vendor::Intel), [(0x1a0, 1)]);
        assert_eq!(bits(Vendor::Amd), []);
        assert_eq!(bits(Vendor::Other), []);
    }
}
