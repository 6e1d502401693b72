//! Rules for the names of workspaces, disks and hosts.

use super::PlanError;
use crate::dir::is_name;

/// Maximum length of a Linux host name (`HOST_NAME_MAX`).
const MAX_HOSTNAME: usize = 64;

/// Checks the name of a workspace, a disk or an output, as `what` says.
///
/// # Errors
/// When it is invalid.
pub fn check(name: &str, what: &str) -> Result<(), PlanError> {
    match is_name(name) {
        true => Ok(()),
        false => Err(
            PlanError::invalid(format!("invalid {what} name {name:?}")).remediation(
                "use 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen",
            ),
        ),
    }
}

/// Checks a host name: RFC 1123 labels, at most `HOST_NAME_MAX` bytes.
///
/// # Errors
/// When it is invalid.
pub fn check_hostname(name: &str) -> Result<(), PlanError> {
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
    Err(PlanError::invalid(format!("invalid host name {name:?}"))
        .remediation("use at most 64 letters, digits and hyphens, in labels separated by dots"))
}
