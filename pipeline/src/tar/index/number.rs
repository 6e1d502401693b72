//! The encoding of numbers and texts in an index.

use std::io::{self, BufRead, Write};

/// The maximum length of a text: larger than any that the tar reader returns.
const MAX_TEXT: u64 = 2 << 20;

/// Writes a number.
pub(super) fn put(output: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0u8; 10];
    let mut length = 0;
    for byte in &mut bytes {
        length += 1;
        *byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            break;
        }
        *byte |= 0x80;
    }
    output.write_all(&bytes[..length])
}

/// Writes a text.
pub(super) fn put_text(output: &mut impl Write, text: &[u8]) -> io::Result<()> {
    put(output, text.len() as u64)?;
    output.write_all(text)
}

/// Reads a number.
pub(super) fn get(input: &mut impl BufRead) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        let bits = u64::from(byte[0] & 0x7f);
        number |= bits << shift;
        if byte[0] & 0x80 == 0 {
            // The tenth byte has room for a single bit.
            return match shift == 63 && bits > 1 {
                true => Err(invalid("a number is too long")),
                false => Ok(number),
            };
        }
    }
    Err(invalid("a number is too long"))
}

/// Reads a number of at most 32 bits.
pub(super) fn get_u32(input: &mut impl BufRead) -> io::Result<u32> {
    u32::try_from(get(input)?).map_err(|_| invalid("a number is out of range"))
}

/// Reads a text.
pub(super) fn get_text(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let length = get(input)?;
    if length > MAX_TEXT {
        return Err(invalid("a text is too long"));
    }
    let mut text = vec![0; length as usize];
    input.read_exact(&mut text)?;
    Ok(text)
}

/// The error for a damaged index.
pub(super) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
