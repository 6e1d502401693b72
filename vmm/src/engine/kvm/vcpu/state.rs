//! The state of a vCPU, as KVM returns and takes it (Documentation/virt/kvm/api.rst).
//!
//! The order of the calls matters. Of saving: the activity first, because KVM then delivers a pending
//! INIT or SIPI; the events last, because reading the others may clear some. Of restoring: the CPUID
//! first, which decides what the others may be; the local APIC after the system registers, which have
//! its address, and before the MSRs, whose `TSC_DEADLINE` starts its timer.
#![allow(unsafe_code)]

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, Xsave, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::fam::FamStruct;

use super::super::super::EngineError;
use super::super::kvm_error;
use crate::snapshot::{Kind, StateError, StateFile, Writer};

/// The most MSRs in one call (`MAX_IO_MSRS` of arch/x86/kvm/x86.c).
const MSRS_PER_CALL: usize = 256;

/// The most MSRs of a vCPU: several times what KVM knows.
const MAX_MSRS: usize = 4096;

/// The time-stamp counter, and the deadline of the local APIC's timer (Intel SDM volume 4).
const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;

/// By how much the rate of a TSC may differ without being set: what a guest's clock can correct, and
/// KVM's own tolerance (`tsc_tolerance_ppm`).
const TSC_TOLERANCE_PPM: u64 = 250;

/// What the state of a vCPU depends on besides the vCPU.
#[derive(Debug)]
pub(in super::super) struct Extent {
    /// The MSRs that KVM can save, as `KVM_GET_MSR_INDEX_LIST` lists them.
    pub msrs: Vec<u32>,
    /// The size of the extended state in bytes (`KVM_CAP_XSAVE2`).
    pub xsave: usize,
}

/// The state of a vCPU that does not run.
#[derive(Debug)]
pub(in super::super) struct VcpuState {
    activity: kvm_mp_state,
    registers: kvm_regs,
    system_registers: kvm_sregs,
    /// In units of four bytes.
    extended_state: Vec<u32>,
    extended_control: kvm_xcrs,
    debug_registers: kvm_debugregs,
    local_apic: kvm_lapic_state,
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads it from KVM.
    ///
    /// # Errors
    /// When KVM fails.
    pub(in super::super) fn save(vcpu: &VcpuFd, extent: &Extent) -> Result<VcpuState, EngineError> {
        let failed = kvm_error("saving a vCPU");
        let activity = vcpu.get_mp_state().map_err(&failed)?;
        Ok(VcpuState {
            activity,
            registers: vcpu.get_regs().map_err(&failed)?,
            system_registers: vcpu.get_sregs().map_err(&failed)?,
            extended_state: extended_state(vcpu, extent.xsave)?,
            extended_control: vcpu.get_xcrs().map_err(&failed)?,
            debug_registers: vcpu.get_debug_regs().map_err(&failed)?,
            local_apic: vcpu.get_lapic().map_err(&failed)?,
            tsc_khz: vcpu.get_tsc_khz().map_err(&failed)?,
            cpuid: (vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(&failed)?)
                .as_slice()
                .to_vec(),
            msrs: read_msrs(vcpu, &extent.msrs)?,
            events: vcpu.get_vcpu_events().map_err(&failed)?,
        })
    }

    /// Gives a new vCPU this state.
    ///
    /// # Errors
    /// When KVM fails, or refuses it: the state is that of another kind of processor.
    pub(in super::super) fn restore(
        &self,
        vcpu: &VcpuFd,
        extent: &Extent,
    ) -> Result<(), EngineError> {
        let failed = kvm_error("restoring a vCPU");
        let rate = vcpu.get_tsc_khz().map_err(&failed)?;
        if rate.abs_diff(self.tsc_khz) as u64 * 1_000_000
            > u64::from(self.tsc_khz) * TSC_TOLERANCE_PPM
        {
            vcpu.set_tsc_khz(self.tsc_khz).map_err(&failed)?;
        }
        let cpuid = CpuId::from_entries(&self.cpuid)
            .map_err(|_| EngineError::Guest("the CPUID has too many leaves".into()))?;
        vcpu.set_cpuid2(&cpuid).map_err(&failed)?;
        vcpu.set_mp_state(self.activity).map_err(&failed)?;
        vcpu.set_regs(&self.registers).map_err(&failed)?;
        vcpu.set_sregs(&self.system_registers).map_err(&failed)?;
        vcpu.set_xcrs(&self.extended_control).map_err(&failed)?;
        set_extended_state(vcpu, &self.extended_state, extent.xsave)?;
        vcpu.set_debug_regs(&self.debug_registers)
            .map_err(&failed)?;
        vcpu.set_lapic(&self.local_apic).map_err(&failed)?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(&failed)
    }

    /// Adds the sections of vCPU `index`.
    pub(in super::super) fn write(&self, index: u32, to: &mut Writer) {
        to.value(Kind::Activity, index, &self.activity);
        to.value(Kind::Registers, index, &self.registers);
        to.value(Kind::SystemRegisters, index, &self.system_registers);
        to.value(Kind::ExtendedState, index, &self.extended_state[..]);
        to.value(Kind::ExtendedControl, index, &self.extended_control);
        to.value(Kind::DebugRegisters, index, &self.debug_registers);
        to.value(Kind::LocalApic, index, &self.local_apic);
        to.value(Kind::TscRate, index, &self.tsc_khz);
        to.value(Kind::Cpuid, index, &self.cpuid[..]);
        to.value(Kind::Msrs, index, &self.msrs[..]);
        to.value(Kind::Events, index, &self.events);
    }

    /// Takes the sections of vCPU `index`.
    ///
    /// # Errors
    /// When one is missing or has another length.
    pub(in super::super) fn read(
        index: u32,
        from: &mut StateFile<'_>,
    ) -> Result<VcpuState, StateError> {
        // Of any size that the kernel may ask for; `restore` compares it with that of this host.
        let extended_limit = crate::snapshot::MAX_LENGTH / size_of::<u32>();
        Ok(VcpuState {
            activity: from.value(Kind::Activity, index)?,
            registers: from.value(Kind::Registers, index)?,
            system_registers: from.value(Kind::SystemRegisters, index)?,
            extended_state: from.values(Kind::ExtendedState, index, extended_limit)?,
            extended_control: from.value(Kind::ExtendedControl, index)?,
            debug_registers: from.value(Kind::DebugRegisters, index)?,
            local_apic: from.value(Kind::LocalApic, index)?,
            tsc_khz: from.value(Kind::TscRate, index)?,
            cpuid: from.values(Kind::Cpuid, index, KVM_MAX_CPUID_ENTRIES)?,
            msrs: from.values(Kind::Msrs, index, MAX_MSRS)?,
            events: from.value(Kind::Events, index)?,
        })
    }
}

/// The extended state, of `size` bytes.
fn extended_state(vcpu: &VcpuFd, size: usize) -> Result<Vec<u32>, EngineError> {
    let mut xsave = xsave(size)?;
    // SAFETY: needed because KVM writes as many bytes as it has said (`KVM_CAP_XSAVE2`). Sound because
    // `xsave` has room for `size`, which is that number, and this process enables no further features.
    unsafe { vcpu.get_xsave2(&mut xsave) }.map_err(kvm_error("saving a vCPU"))?;
    let mut words = xsave.as_fam_struct_ref().xsave.region.to_vec();
    words.extend(xsave.as_slice());
    Ok(words)
}

fn set_extended_state(vcpu: &VcpuFd, words: &[u32], size: usize) -> Result<(), EngineError> {
    let mut xsave = xsave(size)?;
    let (region, extra) =
        words.split_at(words.len().min(size_of::<kvm_xsave>() / size_of::<u32>()));
    if size_of_val(region) != size_of::<kvm_xsave>() || extra.len() != xsave.as_slice().len() {
        return Err(EngineError::Guest(
            "its processor has more or less extended state than this one".into(),
        ));
    }
    // SAFETY: needed because the part of fixed size has no safe accessor. Sound because the length of
    // the other part is not changed.
    unsafe { xsave.as_mut_fam_struct() }
        .xsave
        .region
        .copy_from_slice(region);
    xsave.as_mut_slice().copy_from_slice(extra);
    // SAFETY: needed because KVM reads as many bytes as it has said (`KVM_CAP_XSAVE2`). Sound because
    // `xsave` has `size`, which is that number.
    unsafe { vcpu.set_xsave2(&xsave) }.map_err(kvm_error("restoring a vCPU"))
}

/// Room for `size` bytes of extended state.
fn xsave(size: usize) -> Result<Xsave, EngineError> {
    let extra = size.saturating_sub(size_of::<kvm_xsave>());
    let entries = extra.div_ceil(size_of::<<kvm_bindings::kvm_xsave2 as FamStruct>::Entry>());
    Xsave::new(entries).map_err(|error| EngineError::Guest(format!("extended state: {error:?}")))
}

/// The values of the MSRs that this vCPU has. KVM lists also some that it has not.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, EngineError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<kvm_msr_entry> = rest
            .iter()
            .take(MSRS_PER_CALL)
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = list(&entries)?;
        let read = vcpu
            .get_msrs(&mut msrs)
            .map_err(kvm_error("reading a vCPU's MSRs"))?;
        values.extend(msrs.as_slice().iter().take(read));
        // KVM stops at the first that it cannot read.
        let done = if read < entries.len() { read + 1 } else { read };
        rest = rest.get(done..).unwrap_or_default();
    }
    keep_timer(&mut values);
    Ok(values)
}

/// A deadline of zero is none. If the timer has just expired, its interrupt may not be in the local APIC
/// yet, and would be lost: a deadline in the past makes it expire again, at once.
fn keep_timer(values: &mut [kvm_msr_entry]) {
    let now = values.iter().find(|entry| entry.index == TSC);
    let Some(now) = now.map(|entry| entry.data) else {
        return;
    };
    for entry in values {
        if entry.index == TSC_DEADLINE && entry.data == 0 {
            entry.data = now;
        }
    }
}

/// Sets MSRs, `TSC_DEADLINE` last: it is compared with the TSC.
fn write_msrs(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), EngineError> {
    let (last, first): (Vec<_>, Vec<_>) =
        (values.iter().copied()).partition(|entry| entry.index == TSC_DEADLINE);
    for values in [first, last] {
        let mut rest = &values[..];
        while let Some(entry) = rest.first() {
            let chunk = &rest[..rest.len().min(MSRS_PER_CALL)];
            let written = vcpu
                .set_msrs(&list(chunk)?)
                .map_err(kvm_error("setting a vCPU's MSRs"))?;
            rest = rest.get(written..).unwrap_or_default();
            if written == 0 {
                // Some can be read only; others have the value anyway.
                if read_one(vcpu, entry.index)? != Some(entry.data) {
                    return Err(EngineError::Guest(format!(
                        "KVM does not let MSR {:#x} be {:#x}",
                        entry.index, entry.data
                    )));
                }
                rest = rest.get(1..).unwrap_or_default();
            }
        }
    }
    Ok(())
}

fn read_one(vcpu: &VcpuFd, index: u32) -> Result<Option<u64>, EngineError> {
    let entry = kvm_msr_entry {
        index,
        ..Default::default()
    };
    let mut msrs = list(&[entry])?;
    let read = vcpu
        .get_msrs(&mut msrs)
        .map_err(kvm_error("reading a vCPU's MSRs"))?;
    Ok(msrs
        .as_slice()
        .iter()
        .take(read)
        .map(|entry| entry.data)
        .next())
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, EngineError> {
    Msrs::from_entries(entries).map_err(|error| EngineError::Guest(format!("MSRs: {error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }
    }

    #[test]
    fn an_expired_timer_expires_again() {
        let deadline = |tsc, deadline| {
            let mut values = [entry(TSC, tsc), entry(TSC_DEADLINE, deadline)];
            keep_timer(&mut values);
            values[1].data
        };
        assert_eq!(deadline(70, 0), 70);
        assert_eq!(deadline(70, 90), 90);
        let mut without = [entry(TSC_DEADLINE, 0)];
        keep_timer(&mut without);
        assert_eq!(without[0].data, 0);
    }
}
