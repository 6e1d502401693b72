//! Names of workspaces, disks and hosts.

use crate::failure::Failure;

/// The longest name of a workspace or a disk.
const MAX_NAME: usize = 63;
/// The longest host name that Linux takes (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 64;

/// What workspaces and disks may be called.
pub fn check(name: &str, of: &str) -> Result<(), Failure> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte == b'-');
    if good {
        return Ok(());
    }
    Err(
        Failure::usage(format!("{name:?} is no name for {of}")).remediation(
            "use 1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen",
        ),
    )
}

/// RFC 1123 labels, within what Linux takes.
pub fn check_hostname(name: &str) -> Result<(), Failure> {
    let good_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= MAX_HOSTNAME && name.split('.').all(good_label) {
        return Ok(());
    }
    Err(
        Failure::usage(format!("--hostname {name:?} is no host name"))
            .remediation("use at most 64 letters, digits and hyphens, in parts separated by dots"),
    )
}
