//! What every error reports about itself beside its message: its kind (for
//! scripts and exit codes), a remediation (for people), and whether the same
//! call may succeed later.

use microagent_cas::StoreError;

/// The kinds of failure: a closed list, documented in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is invalid.
    Usage,
    /// The named object does not exist.
    NotFound,
    /// A server requires credentials, or rejected the given ones.
    Unauthorized,
    /// A server cannot be reached, or the connection broke.
    Unreachable,
    /// The data is damaged: malformed, or with a wrong digest.
    Corrupt,
    /// Well-formed input that this program does not support.
    Unsupported,
    /// The content does not fit the requested size.
    TooSmall,
    /// The disk or a quota is full.
    NoSpace,
    /// The operating system denies access.
    Permission,
    /// Something else is using or changing the resource.
    Conflict,
    /// Ended by a signal.
    Interrupted,
    /// The host lacks a program, a device or a resource.
    Host,
    /// The guest failed.
    Guest,
    /// The operation timed out.
    Timeout,
    /// A bug in this program.
    Internal,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [ErrorKind; 15] = [
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::Unauthorized,
        ErrorKind::Unreachable,
        ErrorKind::Corrupt,
        ErrorKind::Unsupported,
        ErrorKind::TooSmall,
        ErrorKind::NoSpace,
        ErrorKind::Permission,
        ErrorKind::Conflict,
        ErrorKind::Interrupted,
        ErrorKind::Host,
        ErrorKind::Guest,
        ErrorKind::Timeout,
        ErrorKind::Internal,
    ];

    /// The kind that is written `name` in JSON.
    pub fn from_name(name: &str) -> Option<ErrorKind> {
        (ErrorKind::ALL.into_iter()).find(|kind| kind.as_str() == name)
    }

    /// The kind as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Usage => "usage",
            ErrorKind::NotFound => "notFound",
            ErrorKind::Unauthorized => "unauthorized",
            ErrorKind::Unreachable => "unreachable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::TooSmall => "tooSmall",
            ErrorKind::NoSpace => "noSpace",
            ErrorKind::Permission => "permission",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Interrupted => "interrupted",
            ErrorKind::Host => "host",
            ErrorKind::Guest => "guest",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Internal => "internal",
        }
    }
}

/// What an error reports about itself beside its message.
pub trait Diagnosis {
    /// The error's kind.
    fn kind(&self) -> ErrorKind;

    /// How to fix it: one line to print after the message, if there is one.
    fn remediation(&self) -> Option<String> {
        None
    }

    /// Whether the same call may succeed later without any change.
    fn retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unreachable | ErrorKind::Timeout)
    }
}

impl Diagnosis for StoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            StoreError::NoSpace(_) => ErrorKind::NoSpace,
            StoreError::ReadOnly(_) | StoreError::Permission(_) => ErrorKind::Permission,
            StoreError::Mismatch { .. } | StoreError::Corrupt { .. } => ErrorKind::Corrupt,
            StoreError::NewerFormat { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Host,
        }
    }

    fn remediation(&self) -> Option<String> {
        StoreError::remediation(self)
    }
}

/// Text from elsewhere in a message: on one line, and no longer than a reader needs.
pub(crate) fn shown(text: &str) -> String {
    const MAX: usize = 200;
    let mut shown: String = text.escape_debug().take(MAX).collect();
    if text.escape_debug().nth(MAX).is_some() {
        shown.push('…');
    }
    // Quotes and backslashes are no danger, and media types and names read better without.
    shown.replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_is_one_bounded_line() {
        assert_eq!(shown("a \"b\" c's"), "a \"b\" c's");
        assert_eq!(shown("a\r\n\x1b[2J"), "a\\r\\n\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(200)), "x".repeat(200));
        assert_eq!(shown(&"x".repeat(1 << 20)), format!("{}…", "x".repeat(200)));
    }
}
