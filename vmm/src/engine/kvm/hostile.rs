//! Hostile state files, for property tests and for the fuzz targets in `fuzz/`. Not part of the API.

use super::serial;
use super::vcpu::VcpuState;
use super::vm_state::VmState;
use crate::snapshot::{StateError, StateFile, sealed};

/// Reads a state file, and one whose sections are `data` behind a first byte with their number, as far as
/// KVM is not needed: nothing panics, and what is read is no larger than the file.
pub fn state_file(data: &[u8]) {
    let _ = read(data);
    let (count, sections) = data.split_first().unwrap_or((&0, &[]));
    let _ = read(&sealed((*count).into(), sections));
}

/// Reads everything but devices, of a VM with one vCPU.
fn read(file: &[u8]) -> Result<(), StateError> {
    let mut from = StateFile::parse(file)?;
    VmState::read(&mut from)?;
    serial::read(&mut from)?;
    VcpuState::read(0, &mut from)?;
    from.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{Kind, Writer};

    /// A file with all sections; those of lists have one element.
    fn complete() -> Vec<u8> {
        let mut file = Writer::default();
        let zeros = |length| vec![0; length];
        file.section(Kind::Clock, 0, &zeros(48));
        for chip in 0..3u32 {
            let payload = [&chip.to_le_bytes()[..], &zeros(516)].concat();
            file.section(Kind::InterruptController, chip, &payload);
        }
        file.section(Kind::Serial, 0, &zeros(9));
        for (kind, length) in [
            (Kind::Activity, 4),
            (Kind::Registers, 144),
            (Kind::SystemRegisters, 312),
            (Kind::ExtendedState, 4096),
            (Kind::ExtendedControl, 392),
            (Kind::DebugRegisters, 128),
            (Kind::LocalApic, 1024),
            (Kind::TscRate, 4),
            (Kind::Cpuid, 40),
            (Kind::Msrs, 16),
            (Kind::Events, 64),
        ] {
            file.section(kind, 0, &zeros(length));
        }
        file.finish()
    }

    #[test]
    fn the_sections_have_the_sizes_of_the_kernels_structures() {
        assert_eq!(read(&complete()), Ok(()));
    }

    proptest! {
        #[test]
        fn no_change_of_a_state_file_breaks_its_reader(
            at in 32usize..6000, byte in any::<u8>(), cut in 0usize..64,
        ) {
            let mut file = complete();
            let at = at.min(file.len() - 1);
            file[at] = byte;
            let count = file[12];
            let sections = &file[32..file.len() - cut];
            state_file(&[&[count], sections].concat());
        }
    }
}
