//! Directories.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// The open flags of a directory, whose name may have become that of a link.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The names in a directory, in the order of the file system.
pub(crate) fn names(directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Removes a tree, as far as possible. A directory in it is first moved to `directory`, under a name
/// that begins with `name`: so a tree of any depth needs no more than three descriptors.
pub(crate) fn remove(directory: &OwnedFd, name: &OsStr) {
    let is_directory = |at: &OwnedFd, name: &OsStr| {
        let removed = unlinkat(at, name, AtFlags::empty());
        matches!(removed, Err(Errno::ISDIR | Errno::PERM))
    };
    let open = |at: &OwnedFd, name: &OsStr| {
        let opened = openat(at, name, DIRECTORY, Mode::empty()).ok();
        // Otherwise nothing in it can be removed, and it cannot be moved.
        opened.inspect(|opened| {
            let _ = fchmod(opened, Mode::RWXU);
        })
    };
    let mut moved = 0;
    let mut pending = vec![name.to_owned()];
    while let Some(next) = pending.pop() {
        if !is_directory(directory, &next) {
            continue;
        }
        if let Some(inside) = open(directory, &next) {
            for below in names(&inside).unwrap_or_default() {
                if !is_directory(&inside, &below) {
                    continue;
                }
                drop(open(&inside, &below));
                let mut new = name.to_owned();
                new.push(format!("-{moved}"));
                moved += 1;
                if renameat(&inside, &below, directory, &new).is_ok() {
                    pending.push(new);
                }
            }
        }
        let _ = unlinkat(directory, &next, AtFlags::REMOVEDIR);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let directory: OwnedFd = File::open(parent.path()).unwrap().into();
        let top = parent.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        let read_only = fs::Permissions::from_mode(0o500);
        fs::set_permissions(top.join("a/b"), read_only).unwrap();
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        let mut deep: OwnedFd = File::open(&top).unwrap().into();
        for _ in 0..1200 {
            mkdirat(&deep, "d", Mode::RUSR | Mode::WUSR | Mode::XUSR).unwrap();
            deep = openat(&deep, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&directory, OsStr::new("top"));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
