//! Delivering a tree to a path, as `cp` does.
//!
//! The tree is written beside its destination under a hidden name and renamed when it is complete,
//! so that a destination never has half of a file.
//!
//! | destination | the tree is a file | a directory |
//! |---|---|---|
//! | absent | becomes it; refused if the path ends in `/` | becomes it |
//! | a file | replaces it | refused |
//! | a directory | goes into it | goes into it; with [`Options::contents`], what is in it does |
//!
//! A directory that goes where one is already is merged with it: files replace files. Symbolic links
//! below the destination are replaced, never followed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use microagent_proto::tree::{Entry, Kind};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, fchmod, fstat, openat, renameat, renameat_with,
    statat,
};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::directory::{DIRECTORY, names, remove};
use crate::path::MAX_DEPTH;
use crate::write::times_of;
use crate::{Policy, Sink, Skipped, TreeError, Writer};

/// How a tree is delivered.
#[derive(Debug, Clone)]
pub struct Options<'a> {
    /// The name of the tree in a directory that is the destination.
    pub name: &'a OsStr,
    /// What is in the directory goes into the destination, not the directory itself.
    pub contents: bool,
    /// Directories that exist keep their permissions and times.
    pub keep_directories: bool,
    /// What is kept.
    pub policy: Policy,
}

/// A tree on its way to its destination. Dropping it removes what was written.
#[derive(Debug)]
pub struct Delivery {
    /// The directory in which it is written, and the hidden name there.
    directory: OwnedFd,
    hidden: OsString,
    writer: Option<Writer>,
    destination: Destination,
    name: OsString,
    contents: bool,
    keep_directories: bool,
    /// The type of the top.
    is_directory: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    /// This name in the directory, which does not exist. A path that ends in a slash wants a
    /// directory.
    Absent { name: OsString, slash: bool },
    /// This name in the directory, which is not a directory.
    File { name: OsString },
    /// The directory itself.
    Directory,
}

impl Delivery {
    /// Prepares a delivery to `path`, which `open` opens with the given flags.
    ///
    /// # Errors
    /// When the path leads nowhere, or the directory cannot be written.
    pub fn new(
        path: &Path,
        options: &Options<'_>,
        open: impl Fn(&Path, OFlags) -> io::Result<OwnedFd>,
    ) -> Result<Delivery, TreeError> {
        let bytes = path.as_os_str().as_bytes();
        let failed = |error: io::Error| TreeError::io("write", bytes, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let slash = bytes.ends_with(b"/");
        let (directory, destination) = match open(path, OFlags::PATH | OFlags::CLOEXEC) {
            Ok(found) => {
                let stat = fstat(&found).map_err(|error| failed(error.into()))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {
                        (open(path, flags).map_err(failed)?, Destination::Directory)
                    }
                    _ => {
                        let (parent, name) = parts(path).map_err(failed)?;
                        let parent = open(parent, flags).map_err(failed)?;
                        (parent, Destination::File { name })
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (parent, name) = parts(path).map_err(failed)?;
                let parent = open(parent, flags).map_err(failed)?;
                (parent, Destination::Absent { name, slash })
            }
            Err(error) => return Err(failed(error)),
        };
        let mut random = [0; 8];
        getrandom(&mut random[..], GetRandomFlags::empty())
            .map_err(|error| failed(error.into()))?;
        let hidden = format!(".microagent-{:016x}", u64::from_ne_bytes(random));
        let hidden = OsString::from(hidden);
        let top = directory.try_clone().map_err(failed)?;
        Ok(Delivery {
            writer: Some(Writer::new(top, &hidden, options.policy)),
            directory,
            hidden,
            destination,
            name: options.name.to_owned(),
            contents: options.contents,
            keep_directories: options.keep_directories,
            is_directory: None,
        })
    }

    /// The hidden name under which the tree is written, in the directory of the destination or in
    /// the destination itself.
    pub fn hidden_name(&self) -> &OsStr {
        &self.hidden
    }

    /// Whether the tree goes into a directory that exists.
    pub fn goes_into_directory(&self) -> bool {
        self.destination == Destination::Directory
    }

    /// Completes the tree and moves it to its destination.
    ///
    /// # Errors
    /// Those of the file system. If a directory is merged, a part of it may have been delivered.
    pub fn finish(mut self) -> Result<Skipped, TreeError> {
        let Some(writer) = self.writer.take() else {
            return Ok(Skipped::default());
        };
        let skipped = writer.finish()?;
        let Some(is_directory) = self.is_directory else {
            return Err(TreeError::invalid(b"", "the tree is empty"));
        };
        // A device file or a socket at the top was skipped.
        if !is_directory && !self.exists(&self.hidden)? {
            return Ok(skipped);
        }
        let name = match &self.destination {
            Destination::Absent { name, .. } => {
                let flags = RenameFlags::NOREPLACE;
                let new =
                    renameat_with(&self.directory, &self.hidden, &self.directory, name, flags);
                let fallback = matches!(new, Err(Errno::INVAL | Errno::NOSYS));
                match fallback {
                    true => name.clone(),
                    false => {
                        new.map_err(|error| TreeError::io("create", name.as_bytes(), error))?;
                        return Ok(skipped);
                    }
                }
            }
            Destination::File { name } => name.clone(),
            Destination::Directory if self.contents && is_directory => {
                let from = openat(&self.directory, &self.hidden, DIRECTORY, Mode::empty())
                    .map_err(|error| TreeError::io("open", b"", error))?;
                merge(&from, &self.directory, b"", self.keep_directories, 0)?;
                return Ok(skipped);
            }
            Destination::Directory => self.name.clone(),
        };
        let (from, to) = (&self.directory, &self.directory);
        let keep = self.keep_directories;
        deliver(from, &self.hidden, to, &name, name.as_bytes(), keep, 0)?;
        Ok(skipped)
    }

    fn exists(&self, name: &OsStr) -> Result<bool, TreeError> {
        match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(TreeError::io("write", name.as_bytes(), error)),
        }
    }
}

impl Sink for Delivery {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        if self.is_directory.is_none() {
            let is_directory = entry.kind == Kind::Directory;
            let why = match (&self.destination, is_directory) {
                (Destination::Absent { name, slash: true }, false) => {
                    Some((name, "the destination is not a directory"))
                }
                (Destination::File { name }, true) => {
                    Some((name, "a directory cannot replace a file"))
                }
                _ => None,
            };
            if let Some((name, why)) = why {
                return Err(TreeError::conflict(name.as_bytes(), why));
            }
            self.is_directory = Some(is_directory);
        }
        self.writer()?.entry(entry)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.writer()?.data(bytes)
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        self.writer()?.hole(length)
    }
}

impl Delivery {
    fn writer(&mut self) -> Result<&mut Writer, TreeError> {
        let ended = || TreeError::invalid(b"", "the tree has ended");
        self.writer.as_mut().ok_or_else(ended)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.writer = None;
        remove(&self.directory, &self.hidden);
    }
}

/// The directory of a path and the name in it.
fn parts(path: &Path) -> io::Result<(&Path, OsString)> {
    let name = path.file_name();
    let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name.to_owned()))
}

/// Moves a file, or merges a directory with the one that is there.
fn deliver(
    from: &OwnedFd,
    name: &OsStr,
    to: &OwnedFd,
    new: &OsStr,
    path: &[u8],
    keep: bool,
    depth: usize,
) -> Result<(), TreeError> {
    let failed = |error: Errno| TreeError::io("write", path, error);
    let kind = |directory: &OwnedFd, name: &OsStr| match statat(
        directory,
        name,
        AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(failed(error)),
    };
    let source = kind(from, name)?;
    let is_directory = source == Some(FileType::Directory);
    let is_there = kind(to, new)?;
    match (is_directory, is_there) {
        (true, Some(FileType::Directory)) => {
            let open = |at, name| openat(at, name, DIRECTORY, Mode::empty()).map_err(failed);
            return merge(&open(from, name)?, &open(to, new)?, path, keep, depth);
        }
        (true, Some(_)) => {
            return Err(TreeError::conflict(
                path,
                "a directory cannot replace a file",
            ));
        }
        (false, Some(FileType::Directory)) => {
            return Err(TreeError::conflict(
                path,
                "a file cannot replace a directory",
            ));
        }
        _ => {}
    }
    match renameat(from, name, to, new) {
        // A directory that may not be written cannot be moved to another one.
        Err(Errno::ACCESS) if is_directory => {
            let directory = openat(from, name, DIRECTORY, Mode::empty()).map_err(failed)?;
            let stat = fstat(&directory).map_err(failed)?;
            fchmod(&directory, Mode::RWXU).map_err(failed)?;
            let moved = renameat(from, name, to, new);
            fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)?;
            moved.map_err(failed)
        }
        moved => moved.map_err(failed),
    }
}

/// Moves what is in one directory into another, and gives that the attributes of the first unless it
/// keeps its own.
fn merge(
    from: &OwnedFd,
    to: &OwnedFd,
    path: &[u8],
    keep: bool,
    depth: usize,
) -> Result<(), TreeError> {
    let failed = |error: Errno| TreeError::io("write", path, error);
    if depth >= MAX_DEPTH {
        return Err(TreeError::Limit("it has too many nested directories"));
    }
    let stat = fstat(from).map_err(failed)?;
    // It may be one that its owner may not write.
    fchmod(from, Mode::RWXU).map_err(failed)?;
    for name in names(from).map_err(failed)? {
        let below = crate::path::join(path, name.as_bytes());
        deliver(from, &name, to, &name, &below, keep, depth + 1)?;
    }
    if keep {
        return Ok(());
    }
    match fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)) {
        // Another user's, as /tmp is.
        Err(Errno::PERM) => Ok(()),
        changed => {
            changed.map_err(failed)?;
            rustix::fs::futimens(to, &times_of(&stat)).map_err(failed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use microagent_proto::tree::Time;

    use super::*;

    fn open(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(path, flags, Mode::empty())?)
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o555,
            uid: 0,
            gid: 0,
            modified: Time {
                seconds: 7,
                nanos: 0,
            },
            attributes: Vec::new(),
        }
    }

    /// Delivers a file `new`, or a directory with `sub/file` and `link`, called `source`.
    fn send(path: &Path, is_directory: bool, contents: bool) -> Result<Skipped, TreeError> {
        let options = Options {
            name: OsStr::new("source"),
            contents,
            keep_directories: false,
            policy: Policy {
                owners: false,
                privileges: false,
            },
        };
        let mut delivery = Delivery::new(path, &options, open)?;
        if is_directory {
            let target = b"/nowhere".to_vec();
            delivery.entry(&entry("", Kind::Directory))?;
            delivery.entry(&entry("link", Kind::Symlink { target }))?;
            delivery.entry(&entry("sub", Kind::Directory))?;
            delivery.entry(&entry("sub/file", Kind::File { size: 3 }))?;
        } else {
            delivery.entry(&entry("", Kind::File { size: 3 }))?;
        }
        delivery.data(b"new")?;
        delivery.finish()
    }

    fn files(path: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![path.to_owned()];
        while let Some(next) = pending.pop() {
            for entry in fs::read_dir(&next).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => pending.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        let relative = |found: &std::path::PathBuf| {
            let name = found.strip_prefix(path).unwrap().display().to_string();
            match fs::read_to_string(found) {
                Ok(text) => format!("{name}={text}"),
                Err(_) => name,
            }
        };
        let mut names: Vec<_> = found.iter().map(relative).collect();
        names.sort();
        names
    }

    #[test]
    fn a_destination_decides_where_a_tree_goes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let prepare = || {
            remove(
                &open(directory.path(), DIRECTORY).unwrap(),
                OsStr::new("there"),
            );
            fs::create_dir_all(at("there/source/sub")).unwrap();
            fs::write(at("there/source/sub/old"), "old").unwrap();
            fs::write(at("there/file"), "old").unwrap();
            symlink("..", at("there/link")).unwrap();
        };
        let unchanged = ["file=old", "link", "source/sub/old=old"];
        for (to, is_directory, contents, expected) in [
            (
                "there/a",
                false,
                false,
                Some("a=new file=old link source/sub/old=old"),
            ),
            (
                "there/file",
                false,
                false,
                Some("file=new link source/sub/old=old"),
            ),
            (
                "there/source",
                false,
                true,
                Some("file=old link source/source=new source/sub/old=old"),
            ),
            ("there/a/", false, false, None),
            ("there", false, false, None),
            ("there/a/b", false, false, None),
            ("there/a/b", true, false, None),
            (
                "there/a",
                true,
                false,
                Some("a/link a/sub/file=new file=old link source/sub/old=old"),
            ),
            (
                "there/a/",
                true,
                true,
                Some("a/link a/sub/file=new file=old link source/sub/old=old"),
            ),
            ("there/file", true, false, None),
            ("there/file/", true, false, None),
            (
                "there",
                true,
                false,
                Some("file=old link source/link source/sub/file=new source/sub/old=old"),
            ),
            (
                "there/.",
                true,
                true,
                Some("file=old link source/sub/old=old sub/file=new"),
            ),
            (
                "there/source/sub",
                true,
                false,
                Some(
                    "file=old link source/sub/old=old source/sub/source/link source/sub/source/sub/file=new",
                ),
            ),
        ] {
            prepare();
            let sent = send(&at(to), is_directory, contents);
            let found = files(&at("there"));
            match expected {
                Some(expected) => {
                    sent.unwrap_or_else(|error| panic!("{to}: {error}"));
                    assert_eq!(found.join(" "), expected, "{to} {is_directory} {contents}");
                }
                None => {
                    assert!(sent.is_err(), "{to}");
                    assert_eq!(found, unchanged, "{to}");
                }
            }
        }
        // A link that is below the destination is not followed.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_tree_that_is_not_completed_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            name: OsStr::new("source"),
            contents: false,
            keep_directories: false,
            policy: Policy {
                owners: false,
                privileges: false,
            },
        };
        let path = directory.path().join("a");
        let mut delivery = Delivery::new(&path, &options, open).unwrap();
        delivery.entry(&entry("", Kind::Directory)).unwrap();
        delivery.entry(&entry("b", Kind::Directory)).unwrap();
        delivery
            .entry(&entry("b/c", Kind::File { size: 3 }))
            .unwrap();
        let hidden = directory.path().join(delivery.hidden_name());
        assert!(hidden.join("b/c").exists());
        let read_only = fs::Permissions::from_mode(0o500);
        fs::set_permissions(hidden.join("b"), read_only).unwrap();
        assert!(delivery.finish().is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        File::create(&path).unwrap();
        drop(Delivery::new(&path, &options, open).unwrap());
        assert_eq!(files(directory.path()), ["a="]);
    }
}
