//! The first bytes of a state file.
//!
//! ```text
//!  0  magic            8 bytes
//!  8  format           u32
//! 12  sections         u32
//! 16  length           u64, of the file
//! 24  checksum         u32, CRC-32 of what follows the header
//! 28  zero             u32
//! ```

use super::{MAX_LENGTH, StateError};

/// The length of the header, in bytes.
pub(super) const LENGTH: usize = 32;

const MAGIC: [u8; 8] = *b"MAGTSNAP";

/// Changes when files of before cannot be read.
const FORMAT: u32 = 1;

/// Writes the header of a file whose sections are `rest`.
pub(super) fn encode(sections: u32, rest: &[u8]) -> [u8; LENGTH] {
    let mut header = [0; LENGTH];
    let length = (LENGTH + rest.len()) as u64;
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&sections.to_le_bytes());
    header[16..24].copy_from_slice(&length.to_le_bytes());
    header[24..28].copy_from_slice(&crc32fast::hash(rest).to_le_bytes());
    header
}

/// Checks the header of a file. Returns the number of sections, and what follows the header.
///
/// # Errors
/// [`StateError`] when the file is not what was written.
pub(super) fn check(file: &[u8]) -> Result<(u32, &[u8]), StateError> {
    let (header, rest) = file
        .split_first_chunk::<LENGTH>()
        .ok_or(StateError::Length)?;
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if header[..8] != MAGIC {
        return Err(StateError::Magic);
    }
    match number(8) {
        FORMAT => {}
        other => return Err(StateError::Format(other)),
    }
    let length = u64::from(number(20)) << 32 | u64::from(number(16));
    if length != file.len() as u64 || file.len() > MAX_LENGTH {
        return Err(StateError::Length);
    }
    if number(28) != 0 || number(24) != crc32fast::hash(rest) {
        return Err(StateError::Checksum);
    }
    Ok((number(12), rest))
}
