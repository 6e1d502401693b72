//! Rules for the names of workspaces, disks and hosts.

use crate::failure::Failure;

/// Maximum length of a workspace or disk name.
const MAX_NAME: usize = 63;
/// Maximum length of a Linux host name (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 64;

/// Checks the name of a workspace or disk; `what` is `"workspace"` or `"disk"`.
pub fn check(name: &str, what: &str) -> Result<(), Failure> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte == b'-');
    if good {
        return Ok(());
    }
    Err(
        Failure::usage(format!("invalid {what} name {name:?}")).remediation(
            "use 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen",
        ),
    )
}

/// Checks a host name: RFC 1123 labels, at most `HOST_NAME_MAX` bytes.
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
    Err(Failure::usage(format!("invalid host name {name:?}"))
        .remediation("use at most 64 letters, digits and hyphens, in labels separated by dots"))
}
