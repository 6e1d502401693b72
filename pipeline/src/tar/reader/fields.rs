//! Fields of a tar header that the `tar` crate does not fully decode: checksums,
//! empty and negative numbers.

use tar::Header;

use super::TarError;

/// Verifies the header's checksum: the sum of its unsigned bytes (signed ones in
/// some old writers), with the checksum field read as blanks.
pub(super) fn sum_is_right(header: &Header) -> bool {
    let Ok(expected) = signed(&header.as_old().cksum, 0, "checksum") else {
        return false;
    };
    let (mut of_unsigned, mut of_signed) = (0i64, 0i64);
    for (index, byte) in header.as_bytes().iter().enumerate() {
        let byte = match index {
            148..156 => b' ',
            _ => *byte,
        };
        of_unsigned += i64::from(byte);
        of_signed += i64::from(byte as i8);
    }
    expected == of_unsigned || expected == of_signed
}

/// A user or group id. Linux has 32 bits for it, to which other numbers are reduced: -2, which some
/// systems use for `nobody`, is 4294967294. The id 4294967295 does not exist: to chown(2) it means
/// "unchanged", so what umoci and podman unpack with it belongs to root.
pub(super) fn owner(
    pax: Option<i64>,
    field: &[u8],
    at: u64,
    name: &'static str,
) -> Result<u32, TarError> {
    let number = match pax {
        Some(number) => number,
        None => signed(field, at, name)?,
    };
    Ok(match number as u32 {
        u32::MAX => 0,
        id => id,
    })
}

pub(super) fn unsigned(field: &[u8], at: u64, name: &'static str) -> Result<u64, TarError> {
    u64::try_from(signed(field, at, name)?).map_err(|_| TarError::Field {
        offset: at,
        field: name,
    })
}

/// A number: octal digits between blanks or, if the first bit is set, a big-endian
/// two's complement number (GNU). An empty field is 0.
pub(super) fn signed(field: &[u8], at: u64, name: &'static str) -> Result<i64, TarError> {
    let bad = || TarError::Field {
        offset: at,
        field: name,
    };
    let Some(first) = field.first() else {
        return Ok(0);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = match (index, negative) {
                (0, false) => byte & 0x7f,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    // As Go, which skips NUL bytes before the digits too.
    let begin = field.iter().position(|byte| !matches!(byte, 0 | b' '));
    let text = field
        .get(begin.unwrap_or(field.len())..)
        .unwrap_or_default();
    let text: &[u8] = text.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut value = 0i64;
    for digit in text.trim_ascii() {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad());
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or_else(bad)?;
    }
    Ok(value)
}
