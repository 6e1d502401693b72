//! The dialect of a header, which decides what its bytes after the link's name mean. The rules are
//! those of Go's `archive/tar`.

use tar::Header;

use super::TarError;
use super::fields::{signed, unsigned};
use crate::tar::entry::Device;

/// The dialect of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Nothing after the link's name.
    V7,
    /// POSIX, and PAX: the name has a prefix of 155 bytes. The version does not matter.
    Ustar,
    /// Schily's star: the prefix has 131 bytes, two times follow.
    Star,
    /// GNU: no prefix, two times in its place.
    Gnu,
}

/// The offsets of fields (`struct posix_header`, `star_header` and `oldgnu_header` in GNU tar's
/// `tar.h`).
const NAME: std::ops::Range<usize> = 0..100;
const MAGIC: std::ops::Range<usize> = 257..265;
const DEVICE_MAJOR: std::ops::Range<usize> = 329..337;
const DEVICE_MINOR: std::ops::Range<usize> = 337..345;
const USTAR_PREFIX: std::ops::Range<usize> = 345..500;
const STAR_PREFIX: std::ops::Range<usize> = 345..476;
const GNU_TIMES: [std::ops::Range<usize>; 2] = [345..357, 357..369];
const STAR_TRAILER: std::ops::Range<usize> = 508..512;

fn format(header: &Header) -> Format {
    let bytes = header.as_bytes();
    match &bytes[MAGIC] {
        b"ustar  \0" => Format::Gnu,
        magic if !magic.starts_with(b"ustar\0") => Format::V7,
        _ if &bytes[STAR_TRAILER] == b"tar\0" => Format::Star,
        _ => Format::Ustar,
    }
}

/// The name of a member in its header.
pub(super) fn name(header: &Header) -> Vec<u8> {
    let bytes = header.as_bytes();
    let prefix = match format(header) {
        Format::V7 => &[],
        Format::Ustar => text(&bytes[USTAR_PREFIX]),
        Format::Star => text(&bytes[STAR_PREFIX]),
        Format::Gnu => misplaced_prefix(bytes),
    };
    let name = text(&bytes[NAME]);
    match prefix {
        [] => name.to_vec(),
        prefix => [prefix, b"/", name].concat(),
    }
}

/// Go before 1.8 wrote ustar's prefix into a GNU header if a number needed GNU's form, too. What is
/// not a time there is such a prefix, unless it is not ASCII.
fn misplaced_prefix(bytes: &[u8; 512]) -> &[u8] {
    let is_time = |field: &[u8]| field.starts_with(b"\0") || signed(field, 0, "time").is_ok();
    let prefix = text(&bytes[USTAR_PREFIX]);
    let are_times = GNU_TIMES.into_iter().all(|field| is_time(&bytes[field]));
    match are_times || !prefix.is_ascii() {
        true => &[],
        false => prefix,
    }
}

/// The number of a device; 0:0 in a header without the fields.
pub(super) fn device(header: &Header, at: u64) -> Result<Device, TarError> {
    if format(header) == Format::V7 {
        return Ok(Device { major: 0, minor: 0 });
    }
    let number = |field: std::ops::Range<usize>| {
        let number = unsigned(&header.as_bytes()[field], at, "device")?;
        u32::try_from(number).map_err(|_| TarError::Field {
            offset: at,
            field: "device",
        })
    };
    Ok(Device {
        major: number(DEVICE_MAJOR)?,
        minor: number(DEVICE_MINOR)?,
    })
}

/// A field up to its first NUL byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
