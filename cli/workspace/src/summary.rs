//! The digest and the size of a tree.
//!
//! The digest of a file is the SHA-256 of its content. That of a directory is the SHA-256 of the
//! lines that `sha256sum` prints for the regular files in it, sorted by their names as bytes:
//!
//! ```sh
//! cd DIRECTORY && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum
//! ```
//!
//! The size is that of all regular files, in bytes.

use std::collections::HashMap;

use microagent_cas::{Digest, Hasher};
use microagent_tree::{Entry, Kind, Sink, TreeError};

/// How many bytes of names are kept to compute the digest of a directory.
const MAX_NAMES: usize = 256 << 20;

/// Computes digest and size of the tree that passes.
#[derive(Debug, Default)]
pub struct Summary {
    /// The file whose content passes.
    open: Option<(Vec<u8>, Hasher)>,
    files: HashMap<Vec<u8>, Digest>,
    names: usize,
    size: u64,
    is_directory: bool,
}

/// What a [`Summary`] has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summarized {
    /// The digest.
    pub digest: Digest,
    /// The size in bytes.
    pub size: u64,
    /// Whether the tree is a directory.
    pub is_directory: bool,
}

impl Summary {
    fn close(&mut self) {
        if let Some((path, hasher)) = self.open.take() {
            self.files.insert(path, hasher.finish());
        }
    }

    /// The result for the tree that has passed.
    pub fn finish(mut self) -> Summarized {
        self.close();
        let mut hasher = Hasher::new();
        if self.is_directory {
            let mut lines: Vec<_> = self.files.into_iter().collect();
            lines.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (path, digest) in lines {
                hasher.update(&line(&path, &digest));
            }
        } else if let Some(digest) = self.files.into_values().next() {
            return Summarized {
                digest,
                size: self.size,
                is_directory: false,
            };
        }
        Summarized {
            digest: hasher.finish(),
            size: self.size,
            is_directory: self.is_directory,
        }
    }
}

/// A line of `sha256sum`, which escapes some characters of a name and says so in front.
fn line(path: &[u8], digest: &Digest) -> Vec<u8> {
    let is_escaped = |byte: &u8| matches!(byte, b'\\' | b'\n' | b'\r');
    let mut line = Vec::new();
    if path.iter().any(is_escaped) {
        line.push(b'\\');
    }
    line.extend_from_slice(digest.hex().as_bytes());
    line.extend_from_slice(b"  ./");
    for &byte in path {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(byte),
        }
    }
    line.push(b'\n');
    line
}

impl Sink for Summary {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.close();
        self.names += entry.path.len() + size_of::<Digest>();
        if self.names > MAX_NAMES {
            return Err(TreeError::Limit("it has too many files"));
        }
        match &entry.kind {
            Kind::Directory if entry.path.is_empty() => self.is_directory = true,
            Kind::File { size } => {
                self.size = self.size.saturating_add(*size);
                self.open = Some((entry.path.clone(), Hasher::new()));
            }
            Kind::HardLink { target } => {
                if let Some(digest) = self.files.get(target).copied() {
                    self.files.insert(entry.path.clone(), digest);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        if let Some((_, hasher)) = &mut self.open {
            hasher.update(bytes);
        }
        Ok(())
    }
}

/// Passes a tree to two sinks.
#[derive(Debug)]
pub struct Both<'a, A, B>(pub &'a mut A, pub &'a mut B);

impl<A: Sink, B: Sink> Sink for Both<'_, A, B> {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.0.entry(entry)?;
        self.1.entry(entry)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.0.data(bytes)?;
        self.1.data(bytes)
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        self.0.hole(length)?;
        self.1.hole(length)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::process::Command;

    use microagent_tree::{Source, read};

    use super::*;

    fn summary(path: &Path) -> Summarized {
        let directory: OwnedFd = File::open(path.parent().unwrap()).unwrap().into();
        let mut summary = Summary::default();
        let source = Source {
            directory: &directory,
            name: path.file_name().unwrap(),
            cross_mounts: false,
        };
        read(source, &mut summary).unwrap();
        summary.finish()
    }

    #[test]
    fn digests_are_those_of_sha256sum() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("sub")).unwrap();
        for name in ["b", "sub/a", "sub-", "a b", "line\nfeed", "back\\slash"] {
            fs::write(top.join(name), name).unwrap();
        }
        fs::hard_link(top.join("b"), top.join("0")).unwrap();
        File::create(top.join("hole"))
            .unwrap()
            .set_len(100_000)
            .unwrap();
        std::os::unix::fs::symlink("b", top.join("link")).unwrap();
        let script = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum; \
                      sha256sum <hole";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(&top)
            .output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let expected: Vec<&str> = text
            .split_whitespace()
            .filter(|word| *word != "-")
            .collect();
        let found = summary(&top);
        assert!(found.is_directory);
        assert_eq!(found.digest.hex(), expected[0]);
        assert_eq!(found.size, 1 + 5 + 4 + 3 + 9 + 10 + 100_000);
        let hole = summary(&top.join("hole"));
        assert_eq!(
            (hole.digest.hex().as_str(), hole.size),
            (expected[1], 100_000)
        );
    }
}
