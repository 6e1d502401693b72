//! Paths below the top of a tree.

use std::fmt;

use crate::TreeError;

/// The maximum number of names in a path.
pub const MAX_DEPTH: usize = 2048;

/// How many files a tree of a guest may have. Linux's largest images have some hundred thousand.
pub const MAX_FILES: u64 = 1 << 22;

/// The apparent size of all files of a tree of a guest, with their holes, in bytes.
pub const MAX_APPARENT: u64 = 1 << 40;

/// The maximum length of a name in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// A path as text, with all but printable ASCII characters escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown(String);

impl From<&[u8]> for Shown {
    fn from(path: &[u8]) -> Shown {
        match path {
            b"" => Shown(".".to_owned()),
            path => Shown(path.escape_ascii().to_string()),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks that `path` is one of an entry: empty, or names that are no `.`, `..` and not empty,
/// separated by single slashes, at most [`MAX_DEPTH`].
///
/// # Errors
/// [`TreeError::Invalid`].
pub fn check_path(path: &[u8]) -> Result<(), TreeError> {
    if path.is_empty() {
        return Ok(());
    }
    let mut depth = 0;
    for name in path.split(|&byte| byte == b'/') {
        depth += 1;
        let why = match name {
            b"" => "an empty name",
            b"." | b".." => "a name that is not one of a file",
            name if name.contains(&0) => "a NUL byte",
            name if name.len() > MAX_NAME => "a name of more than 255 bytes",
            _ if depth > MAX_DEPTH => "too many directories",
            _ => continue,
        };
        return Err(TreeError::invalid(path, why));
    }
    Ok(())
}

/// The directory of a path, and the name in it; `None` for the top.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}

/// `name` in the directory `parent`.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_top_are_accepted() {
        for path in ["", "a", "a/b", "a b/...", ".a", "a/..b"] {
            check_path(path.as_bytes()).unwrap();
        }
        let long = "x".repeat(256);
        let deep = "x/".repeat(MAX_DEPTH) + "x";
        for path in [
            "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", &long, &deep,
        ] {
            assert!(check_path(path.as_bytes()).is_err(), "{path}");
        }
    }
}
