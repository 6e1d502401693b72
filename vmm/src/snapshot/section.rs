//! The sections of a state file.
//!
//! ```text
//!  0  kind      u16
//!  2  version   u16
//!  4  index     u32, of the vCPU or device
//!  8  length    u64, of the payload
//! 16  payload
//! ```

use std::collections::BTreeMap;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{StateError, header};

/// The length of what precedes a payload, in bytes.
const LENGTH: usize = 16;

/// What a section contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// The number of vCPUs and devices, and the size of memory.
    Shape = 1,
    /// KVM's clock.
    Clock = 2,
    /// An interrupt controller of the VM.
    InterruptController = 3,
    /// The serial port.
    Serial = 4,
    /// `KVM_GET_MP_STATE` of a vCPU.
    Activity = 16,
    /// `KVM_GET_REGS` of a vCPU.
    Registers = 17,
    /// `KVM_GET_SREGS` of a vCPU.
    SystemRegisters = 18,
    /// `KVM_GET_XSAVE2` of a vCPU.
    ExtendedState = 19,
    /// `KVM_GET_XCRS` of a vCPU.
    ExtendedControl = 20,
    /// `KVM_GET_DEBUGREGS` of a vCPU.
    DebugRegisters = 21,
    /// `KVM_GET_LAPIC` of a vCPU.
    LocalApic = 22,
    /// `KVM_GET_TSC_KHZ` of a vCPU.
    TscRate = 23,
    /// `KVM_GET_CPUID2` of a vCPU.
    Cpuid = 24,
    /// `KVM_GET_MSRS` of a vCPU.
    Msrs = 25,
    /// `KVM_GET_VCPU_EVENTS` of a vCPU.
    Events = 26,
    /// The registers of a virtio device.
    Transport = 64,
    /// The queues of a virtio device.
    Queues = 65,
}

const KINDS: [Kind; 17] = [
    Kind::Shape,
    Kind::Clock,
    Kind::InterruptController,
    Kind::Serial,
    Kind::Activity,
    Kind::Registers,
    Kind::SystemRegisters,
    Kind::ExtendedState,
    Kind::ExtendedControl,
    Kind::DebugRegisters,
    Kind::LocalApic,
    Kind::TscRate,
    Kind::Cpuid,
    Kind::Msrs,
    Kind::Events,
    Kind::Transport,
    Kind::Queues,
];

impl Kind {
    fn from_number(number: u16) -> Option<Kind> {
        KINDS.into_iter().find(|&kind| kind as u16 == number)
    }

    /// The version of its payload: changes with what its writer makes of it.
    fn version(self) -> u16 {
        1
    }
}

/// Writes a state file.
#[derive(Debug, Default)]
pub struct Writer {
    sections: u32,
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds a section.
    pub fn section(&mut self, kind: Kind, index: u32, payload: &[u8]) {
        self.sections += 1;
        self.bytes.extend((kind as u16).to_le_bytes());
        self.bytes.extend(kind.version().to_le_bytes());
        self.bytes.extend(index.to_le_bytes());
        self.bytes.extend((payload.len() as u64).to_le_bytes());
        self.bytes.extend(payload);
    }

    /// Adds a section that is one value.
    pub fn value<T: IntoBytes + Immutable + ?Sized>(&mut self, kind: Kind, index: u32, value: &T) {
        self.section(kind, index, value.as_bytes());
    }

    /// The file.
    pub fn finish(self) -> Vec<u8> {
        let mut file = header::encode(self.sections, &self.bytes).to_vec();
        file.extend(self.bytes);
        file
    }
}

/// The sections of a file that have not been taken yet.
#[derive(Debug)]
pub struct StateFile<'a> {
    sections: BTreeMap<(Kind, u32), (u16, &'a [u8])>,
}

impl<'a> StateFile<'a> {
    /// Reads the header and finds the sections.
    ///
    /// # Errors
    /// [`StateError`] when the file is not one that [`Writer`] has written.
    pub fn parse(file: &'a [u8]) -> Result<StateFile<'a>, StateError> {
        let (count, mut rest) = header::check(file)?;
        let mut sections = BTreeMap::new();
        for _ in 0..count {
            let (head, after) = rest
                .split_first_chunk::<LENGTH>()
                .ok_or(StateError::Section)?;
            let [k0, k1, v0, v1, i0, i1, i2, i3, length @ ..] = *head;
            let kind =
                Kind::from_number(u16::from_le_bytes([k0, k1])).ok_or(StateError::Section)?;
            let length = usize::try_from(u64::from_le_bytes(length)).ok();
            let (payload, after) = length
                .and_then(|length| after.split_at_checked(length))
                .ok_or(StateError::Section)?;
            let key = (kind, u32::from_le_bytes([i0, i1, i2, i3]));
            let value = (u16::from_le_bytes([v0, v1]), payload);
            if sections.insert(key, value).is_some() {
                return Err(StateError::Twice(kind));
            }
            rest = after;
        }
        match rest {
            [] => Ok(StateFile { sections }),
            _ => Err(StateError::Section),
        }
    }

    /// Takes the payload of a section.
    ///
    /// # Errors
    /// When there is none, or one of another version.
    pub fn take(&mut self, kind: Kind, index: u32) -> Result<&'a [u8], StateError> {
        let section = self.sections.remove(&(kind, index));
        let (version, payload) = section.ok_or(StateError::Missing(kind))?;
        match version == kind.version() {
            true => Ok(payload),
            false => Err(StateError::Version { kind, version }),
        }
    }

    /// Takes a section that is one value.
    ///
    /// # Errors
    /// Those of [`take`](Self::take), and when the length is not that of the value.
    pub fn value<T: FromBytes>(&mut self, kind: Kind, index: u32) -> Result<T, StateError> {
        let payload = self.take(kind, index)?;
        T::read_from_bytes(payload).map_err(|_| StateError::Payload(kind))
    }

    /// Takes a section that is a list of values, at most `limit`.
    ///
    /// # Errors
    /// Those of [`take`](Self::take), and when the length is no multiple of that of a value, or above the
    /// limit.
    pub fn values<T: FromBytes>(
        &mut self,
        kind: Kind,
        index: u32,
        limit: usize,
    ) -> Result<Vec<T>, StateError> {
        let payload = self.take(kind, index)?;
        let mut chunks = payload.chunks_exact(size_of::<T>());
        let values = (chunks.by_ref())
            .map(T::read_from_bytes)
            .collect::<Result<Vec<T>, _>>();
        match values {
            Ok(values) if chunks.remainder().is_empty() && values.len() <= limit => Ok(values),
            _ => Err(StateError::Payload(kind)),
        }
    }

    /// Checks that all sections have been taken.
    ///
    /// # Errors
    /// When one is left.
    pub fn finish(self) -> Result<(), StateError> {
        match self.sections.into_keys().next() {
            Some((kind, _)) => Err(StateError::Leftover(kind)),
            None => Ok(()),
        }
    }
}

/// A file with these bytes as its sections, and a correct header.
#[cfg(any(test, feature = "fuzzing"))]
pub fn sealed(sections: u32, rest: &[u8]) -> Vec<u8> {
    let mut file = header::encode(sections, rest).to_vec();
    file.extend(rest);
    file
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::MAX_LENGTH;

    fn two() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.value(Kind::TscRate, 0, &2_000_000u32);
        writer.section(Kind::Msrs, 1, &[1, 0, 2, 0, 3, 0]);
        writer.finish()
    }

    #[test]
    fn sections_are_taken_once_and_all_of_them() {
        let file = two();
        let mut state = StateFile::parse(&file).unwrap();
        assert_eq!(state.value::<u32>(Kind::TscRate, 0), Ok(2_000_000));
        let again = state.take(Kind::TscRate, 0);
        assert_eq!(again, Err(StateError::Missing(Kind::TscRate)));
        let other = state.take(Kind::Msrs, 0);
        assert_eq!(other, Err(StateError::Missing(Kind::Msrs)));
        assert_eq!(state.values::<u16>(Kind::Msrs, 1, 3), Ok(vec![1, 2, 3]));
        assert_eq!(state.finish(), Ok(()));
        let leftover = StateFile::parse(&file).unwrap().finish();
        assert_eq!(leftover, Err(StateError::Leftover(Kind::TscRate)));
    }

    #[test]
    fn a_payload_of_another_length_is_refused() {
        let file = two();
        let wrong = |kind| Err(StateError::Payload(kind));
        let parse = || StateFile::parse(&file).unwrap();
        let value = parse().value::<u64>(Kind::TscRate, 0);
        assert_eq!(value.map(drop), wrong(Kind::TscRate));
        let values = parse().values::<u32>(Kind::Msrs, 1, 9);
        assert_eq!(values.map(drop), wrong(Kind::Msrs));
        let above = parse().values::<u16>(Kind::Msrs, 1, 2);
        assert_eq!(above.map(drop), wrong(Kind::Msrs));
    }

    #[test]
    fn each_wrong_byte_of_the_header_is_noticed() {
        let file = two();
        let error = |at: usize, byte: u8| {
            let mut file = file.clone();
            file[at] ^= byte;
            StateFile::parse(&file).map(drop)
        };
        for at in 0..8 {
            assert_eq!(error(at, 1), Err(StateError::Magic));
        }
        assert_eq!(error(8, 3), Err(StateError::Format(2)));
        assert_eq!(error(12, 1), Err(StateError::Section), "one section more");
        assert_eq!(error(12, 3), Err(StateError::Section), "one section less");
        for at in 16..24 {
            assert_eq!(error(at, 1), Err(StateError::Length));
        }
        for at in 24..file.len() {
            assert_eq!(error(at, 1), Err(StateError::Checksum));
        }
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let mut file = two();
        for length in 0..file.len() {
            assert_eq!(
                StateFile::parse(&file[..length]).map(drop),
                Err(StateError::Length)
            );
        }
        file.push(0);
        assert_eq!(StateFile::parse(&file).map(drop), Err(StateError::Length));
        let mut writer = Writer::default();
        writer.section(Kind::Msrs, 0, &vec![0; MAX_LENGTH]);
        let file = writer.finish();
        assert_eq!(StateFile::parse(&file).map(drop), Err(StateError::Length));
    }

    #[test]
    fn sections_that_cannot_be_are_refused() {
        let section = |kind: u16, version: u16, length: u64| {
            let [kind, version] = [kind, version].map(u16::to_le_bytes);
            [&kind[..], &version, &[0; 4], &length.to_le_bytes()].concat()
        };
        let parse = |sections, rest: &[u8]| StateFile::parse(&sealed(sections, rest)).map(drop);
        assert_eq!(parse(0, &[]), Ok(()));
        assert_eq!(parse(0, &[0]), Err(StateError::Section));
        assert_eq!(parse(1, &section(999, 1, 0)), Err(StateError::Section));
        assert_eq!(parse(1, &section(23, 1, 1)), Err(StateError::Section));
        assert_eq!(
            parse(1, &section(23, 1, u64::MAX)),
            Err(StateError::Section)
        );
        let two = [section(23, 1, 0), section(23, 1, 0)].concat();
        assert_eq!(parse(2, &two), Err(StateError::Twice(Kind::TscRate)));
        let file = sealed(1, &section(23, 2, 0));
        let kind = Kind::TscRate;
        let taken = StateFile::parse(&file).unwrap().take(kind, 0);
        assert_eq!(taken, Err(StateError::Version { kind, version: 2 }));
    }

    proptest! {
        #[test]
        fn arbitrary_sections_are_read_or_refused(
            sections in 0u32..4, rest in prop::collection::vec(0u8..32, 0..80),
        ) {
            if let Ok(mut state) = StateFile::parse(&sealed(sections, &rest)) {
                for kind in KINDS {
                    let _ = state.values::<u64>(kind, 0, 8);
                }
            }
        }

        #[test]
        fn what_is_written_is_read(
            payloads in prop::collection::btree_map((0..KINDS.len(), 0u32..3), prop::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let mut writer = Writer::default();
            for ((kind, index), payload) in &payloads {
                writer.section(KINDS[*kind], *index, payload);
            }
            let file = writer.finish();
            let mut state = StateFile::parse(&file).unwrap();
            for ((kind, index), payload) in &payloads {
                prop_assert_eq!(state.take(KINDS[*kind], *index), Ok(&payload[..]));
            }
            prop_assert_eq!(state.finish(), Ok(()));
        }
    }
}
