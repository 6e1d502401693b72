//! Commands that a user is told to run in a shell.

use std::borrow::Cow;
use std::ffi::OsStr;

/// A file name or argument as one word of such a command: quoted if a shell would take it for
/// anything else.
pub fn word(word: impl AsRef<OsStr>) -> String {
    let text = word.as_ref().to_string_lossy();
    // Only a NUL byte cannot be quoted, and it is in no file name.
    shlex::try_quote(&text).map_or_else(|_| text.clone().into_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_command_is_one_word() {
        for (text, quoted) in [
            ("/run/user/0/microagent", "/run/user/0/microagent"),
            ("oci:/a/b:latest", "oci:/a/b:latest"),
            ("/my disk", "'/my disk'"),
            ("$(id)'s", "'$(id)'\"'s\""),
            ("", "''"),
        ] {
            assert_eq!(word(text), quoted);
        }
    }
}
