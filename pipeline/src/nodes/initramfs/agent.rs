//! The guest agent's executable: read and checked.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use elf::endian::LittleEndian;
use elf::{ElfBytes, abi};
use microagent_cas::Digest;

use super::InitramfsError;

/// The maximum size of an agent, in bytes. A release build has 2 MiB, a debug build 60.
const MAX_AGENT: u64 = 512 << 20;

/// Reads and checks the agent, whose digest was taken before.
pub(super) fn read(path: &Path, digest: &Digest) -> Result<Vec<u8>, InitramfsError> {
    let unreadable = |source| InitramfsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    open(path)?
        .take(MAX_AGENT)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if Digest::of(&bytes) != *digest {
        return Err(unfit(path, "it was replaced while it was read"));
    }
    check(&bytes).map_err(|why| unfit(path, &why))?;
    Ok(bytes)
}

fn unfit(path: &Path, why: &str) -> InitramfsError {
    InitramfsError::UnfitAgent {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

/// Opens the agent and checks that it is a regular file of a plausible size.
pub(super) fn open(path: &Path) -> Result<File, InitramfsError> {
    let unreadable = |source| InitramfsError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    match metadata.is_file() {
        false => Err(unfit(path, "it is not a regular file")),
        true if metadata.len() > MAX_AGENT => Err(unfit(path, "it is larger than 512 MiB")),
        true => Ok(file),
    }
}

/// Checks that a guest without any other file can run it: x86-64, executable, no interpreter.
fn check(bytes: &[u8]) -> Result<(), String> {
    let no_elf = |_| "it is not an ELF executable".to_owned();
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(no_elf)?;
    if file.ehdr.class != elf::file::Class::ELF64 || file.ehdr.e_machine != abi::EM_X86_64 {
        return Err("it is not for x86-64".to_owned());
    }
    if !matches!(file.ehdr.e_type, abi::ET_EXEC | abi::ET_DYN) || file.ehdr.e_entry == 0 {
        return Err("it is not an executable".to_owned());
    }
    let mut segments = file.segments().into_iter().flatten();
    if segments.any(|segment| segment.p_type == abi::PT_INTERP) {
        return Err("it is dynamically linked, and the guest has no libraries".to_owned());
    }
    Ok(())
}
