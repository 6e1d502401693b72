//! File trees as comparable text.
//!
//! One line per file, sorted by path, with type and permissions, owner, size, modification time,
//! link target or device number, digest of the content, the first name of its hard-link group, and
//! extended attributes. Non-printable bytes are escaped. Times of directories are omitted:
//! unpacking a later layer changes them, and not all tools restore them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{Error, binaries, tool};

/// Lists the tree below `root`, and `root` itself as `/`.
pub fn list(root: &Path) -> Result<Vec<String>, Error> {
    let mut lister = Lister::default();
    lister.visit(root, b"/")?;
    lister.entries.sort();
    Ok(lister.entries.into_iter().map(|(_, line)| line).collect())
}

/// Lists the tree in an ext4 image as the kernel sees it. Needs root.
///
/// The image is mounted in the mount namespace of a child process, which disappears with it, so no
/// mount is left behind.
pub fn list_ext4(image: &Path) -> Result<Vec<String>, Error> {
    let mount_point = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let mut command = Command::new(tool::find("unshare")?);
    command
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg(r#"mount -t ext4 -o ro,loop,noload "$1" "$2" && exec "$3" "$2""#)
        .arg("list")
        .args([image, mount_point.path()])
        .arg(binaries::of_this_crate("tree"));
    let listing = tool::output(&mut command)?;
    Ok(String::from_utf8_lossy(&listing)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Returns the lines that occur in only one of two listings, at most 40, with `-` before those of
/// `left` and `+` before those of `right`.
pub fn difference(left: &[String], right: &[String]) -> String {
    let only = |these: &[String], others: &[String], sign: char| -> Vec<String> {
        let others: std::collections::HashSet<&String> = others.iter().collect();
        these
            .iter()
            .filter(|line| !others.contains(line))
            .map(|line| format!("{sign} {line}"))
            .collect()
    };
    let mut lines = only(left, right, '-');
    lines.extend(only(right, left, '+'));
    lines.truncate(40);
    lines.join("\n")
}

#[derive(Default)]
struct Lister {
    entries: Vec<(Vec<u8>, String)>,
    /// The first path of each inode with several names.
    inodes: HashMap<(u64, u64), String>,
}

impl Lister {
    fn visit(&mut self, path: &Path, name: &[u8]) -> Result<(), Error> {
        let metadata = fs::symlink_metadata(path).map_err(Error::file(path))?;
        let line = self
            .line(path, name, &metadata)
            .map_err(Error::file(path))?;
        self.entries.push((name.to_vec(), line));
        if !metadata.is_dir() {
            return Ok(());
        }
        let mut children: Vec<_> = fs::read_dir(path)
            .and_then(Iterator::collect)
            .map_err(Error::file(path))?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let file_name = child.file_name();
            let mut below = name.to_vec();
            if name != b"/" {
                below.push(b'/');
            }
            below.extend_from_slice(file_name.as_bytes());
            let path = child.path();
            self.visit(&path, &below)?;
        }
        Ok(())
    }

    fn line(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> io::Result<String> {
        let kind = metadata.file_type();
        let shown = name.escape_ascii().to_string();
        let mut line = format!(
            "{shown} {:06o} {}:{}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid()
        );
        if !kind.is_dir() {
            push(&mut line, "mtime", &metadata.mtime().to_string());
        }
        if kind.is_file() {
            push(&mut line, "size", &metadata.size().to_string());
            push(&mut line, "sha256", &sha256(&mut File::open(path)?)?);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            push(&mut line, "target", &escape(target.as_os_str()));
        }
        if kind.is_block_device() || kind.is_char_device() {
            let device = metadata.rdev();
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            push(&mut line, "device", &format!("{major}:{minor}"));
        }
        if !kind.is_dir() && metadata.nlink() > 1 {
            let first = self
                .inodes
                .entry((metadata.dev(), metadata.ino()))
                .or_insert_with(|| shown.clone());
            push(
                &mut line,
                "linked",
                &format!("{}x{first}", metadata.nlink()),
            );
        }
        for (attribute, value) in attributes(path)? {
            push(&mut line, &attribute, &value);
        }
        Ok(line)
    }
}

fn push(line: &mut String, key: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = write!(line, " {key}={value}");
}

fn escape(text: &OsStr) -> String {
    text.as_bytes().escape_ascii().to_string()
}

/// The SHA-256 of a reader's content, in hexadecimal.
pub(crate) fn sha256(input: &mut impl io::Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(input, &mut HashWriter(&mut hasher))?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The extended attributes of a file, sorted by name. Does not follow symbolic links.
fn attributes(path: &Path) -> io::Result<Vec<(String, String)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
        found.push((
            name.escape_ascii().to_string(),
            value[..length].escape_ascii().to_string(),
        ));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_mode_link_or_name_changes_the_listing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("a"), "x").unwrap();
        let original = list(root).unwrap();

        fs::write(root.join("a"), "y").unwrap();
        assert_ne!(list(root).unwrap(), original);
        fs::write(root.join("a"), "x").unwrap();

        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        let linked = list(root).unwrap();
        assert!(linked[1].contains(" linked=2x/a"), "{linked:?}");
        assert!(linked[2].contains(" linked=2x/a"), "{linked:?}");
        assert!(linked[2].starts_with("/b "), "{linked:?}");
    }

    #[test]
    fn a_difference_lists_the_lines_of_each_side() {
        let left = ["same".to_owned(), "left".to_owned()];
        let right = ["same".to_owned(), "right".to_owned()];
        assert_eq!(difference(&left, &right), "- left\n+ right");
        assert_eq!(difference(&left, &left), "");
    }
}
