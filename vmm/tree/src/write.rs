//! Writing a tree below an open directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use microagent_proto::tree::{Entry, Kind, Time};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::process::{Gid, Uid};

use crate::directory::DIRECTORY;
use crate::path::split;
use crate::{Sink, TreeError, check_path};

/// The maximum length of all paths of directories, in bytes: they are kept until the end, when
/// their modes and times are set.
const MAX_DIRECTORIES: usize = 64 << 20;

/// The modes of files and directories that are being written.
const FILE: Mode = Mode::from_raw_mode(0o600);
const PRIVATE: Mode = Mode::from_raw_mode(0o700);

/// Which properties of files are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Owners and groups.
    pub owners: bool,
    /// Extended attributes outside `user.`, set-user-ID and set-group-ID bits of files, device
    /// files and sockets. Device files and sockets are skipped otherwise.
    pub privileges: bool,
}

/// Writes a tree to the name `top` in a directory, in which it must not exist.
#[derive(Debug)]
pub struct Writer {
    root: OwnedFd,
    top: Vec<u8>,
    policy: Policy,
    /// The directory of the last entry.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// The file whose content is being written, its path, and what is still to come.
    open: Option<Open>,
    /// The directories, whose modes and times are set at the end.
    directories: Vec<Entry>,
    directory_bytes: usize,
    skipped: Vec<Vec<u8>>,
    skipped_count: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    entry: Entry,
    left: u64,
    /// The last part was a hole: the length must be set.
    ends_in_hole: bool,
}

/// How many of the skipped files are named.
const NAMED: usize = 16;

impl Writer {
    /// A writer for the tree that becomes `top` in `root`.
    pub fn new(root: OwnedFd, top: &OsStr, policy: Policy) -> Writer {
        Writer {
            root,
            top: top.as_bytes().to_vec(),
            policy,
            parent: None,
            open: None,
            directories: Vec::new(),
            directory_bytes: 0,
            skipped: Vec::new(),
            skipped_count: 0,
        }
    }

    /// Ends the tree: sets the modes and times of its directories.
    ///
    /// # Errors
    /// [`TreeError::Invalid`] if the content of the last file is incomplete, and those of the file
    /// system.
    pub fn finish(mut self) -> Result<Skipped, TreeError> {
        self.close()?;
        // Each after what is in it.
        while let Some(entry) = self.directories.pop() {
            let directory = self.directory(&entry.path)?;
            let failed = |error| TreeError::io("set the attributes of", &entry.path, error);
            self.set_attributes(&directory, &entry).map_err(failed)?;
        }
        Ok(Skipped {
            count: self.skipped_count,
            first: self.skipped,
        })
    }

    /// Opens the directory of the tree at `path`, without following a symbolic link.
    fn directory(&self, path: &[u8]) -> Result<OwnedFd, TreeError> {
        let failed = |error| TreeError::io("open", path, error);
        let open = |at: &OwnedFd, name: &[u8]| {
            openat(at, OsStr::from_bytes(name), DIRECTORY, Mode::empty()).map_err(failed)
        };
        let mut directory = open(&self.root, &self.top)?;
        let names = path.split(|&byte| byte == b'/');
        for name in names.filter(|name| !name.is_empty()) {
            directory = open(&directory, name)?;
        }
        Ok(directory)
    }

    /// The directory of the file at `path`, and its name there.
    fn place<'a>(&'a mut self, path: &'a [u8]) -> Result<(&'a OwnedFd, &'a OsStr), TreeError> {
        let Some((parent, name)) = split(path) else {
            return Ok((&self.root, OsStr::from_bytes(&self.top)));
        };
        let known = matches!(&self.parent, Some((known, _)) if known == parent);
        if !known {
            let directory = self.directory(parent)?;
            self.parent = Some((parent.to_vec(), directory));
        }
        match &self.parent {
            Some((_, directory)) => Ok((directory, OsStr::from_bytes(name))),
            None => Err(TreeError::invalid(path, "it has no directory")),
        }
    }

    fn close(&mut self) -> Result<(), TreeError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let Open {
            file, entry, left, ..
        } = open;
        if left > 0 {
            return Err(TreeError::invalid(&entry.path, "its content is incomplete"));
        }
        let Kind::File { size } = entry.kind else {
            return Ok(());
        };
        let failed = |error: io::Error| TreeError::io("write", &entry.path, error);
        if open.ends_in_hole {
            file.set_len(size).map_err(failed)?;
        }
        self.set_attributes(&file, &entry)
            .map_err(|error| TreeError::io("set the attributes of", &entry.path, error))
    }

    /// Sets owner, mode, extended attributes and time of an open file or directory.
    fn set_attributes(&self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
        let file = file.as_fd();
        if self.policy.owners {
            let (uid, gid) = owner(entry);
            fchown(file, uid, gid)?;
        }
        for attribute in &entry.attributes {
            if !self.policy.privileges && !attribute.name.starts_with(b"user.") {
                continue;
            }
            let name = OsStr::from_bytes(&attribute.name);
            match fsetxattr(file, name, &attribute.value, XattrFlags::empty()) {
                // A file system without attributes keeps the content, as cp -a does.
                Err(rustix::io::Errno::NOTSUP) => {}
                set => set?,
            }
        }
        // After the owner: changing it clears set-user-ID.
        fchmod(file, self.mode(entry))?;
        futimens(file, &times(entry.modified))?;
        Ok(())
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let mode = entry.mode & 0o7777;
        let is_directory = entry.kind == Kind::Directory;
        Mode::from_raw_mode(match self.policy.privileges || is_directory {
            true => mode,
            false => mode & 0o1777,
        })
    }

    /// Creates a file that is neither a directory nor a regular file.
    fn create_special(&mut self, entry: &Entry) -> Result<(), TreeError> {
        let policy = self.policy;
        let mode = self.mode(entry);
        let failed = |error: rustix::io::Errno| TreeError::io("create", &entry.path, error);
        let (directory, name) = self.place(&entry.path)?;
        let node = |kind, device| mknodat(directory, name, kind, FILE, device).map_err(failed);
        match &entry.kind {
            Kind::Symlink { target } => {
                symlinkat(OsStr::from_bytes(target), directory, name).map_err(failed)?;
            }
            Kind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, makedev(*major, *minor))?;
            }
            Kind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, makedev(*major, *minor))?;
            }
            Kind::Socket => node(FileType::Socket, 0)?,
            _ => node(FileType::Fifo, 0)?,
        }
        let failed =
            |error: rustix::io::Errno| TreeError::io("set the attributes of", &entry.path, error);
        let is_link = matches!(entry.kind, Kind::Symlink { .. });
        if policy.owners {
            let (uid, gid) = owner(entry);
            chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        }
        if !is_link {
            // It was just created here, and is not a link.
            rustix::fs::chmodat(directory, name, mode, AtFlags::empty()).map_err(failed)?;
        }
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        utimensat(directory, name, &times(entry.modified), flags).map_err(failed)
    }

    fn link(&mut self, entry: &Entry, target: &[u8]) -> Result<(), TreeError> {
        check_path(target)?;
        let (from, name) = split(target)
            .ok_or_else(|| TreeError::invalid(&entry.path, "a link to a directory"))?;
        let from = self.directory(from)?;
        let (directory, new) = self.place(&entry.path)?;
        let name = OsStr::from_bytes(name);
        match linkat(&from, name, directory, new, AtFlags::empty()) {
            // Another name of a file that was skipped.
            Err(rustix::io::Errno::NOENT) if !self.policy.privileges => {
                self.skip(&entry.path);
                Ok(())
            }
            linked => linked.map_err(|error| TreeError::io("link", &entry.path, error)),
        }
    }

    fn skip(&mut self, path: &[u8]) {
        self.skipped_count += 1;
        if self.skipped.len() < NAMED {
            self.skipped.push(path.to_vec());
        }
    }
}

impl Sink for Writer {
    fn entry(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.close()?;
        check_path(&entry.path)?;
        match &entry.kind {
            Kind::Directory => {
                self.directory_bytes += entry.path.len() + size_of::<Entry>();
                let attributes = entry.attributes.iter();
                self.directory_bytes += attributes
                    .map(|a| a.name.len() + a.value.len())
                    .sum::<usize>();
                if self.directory_bytes > MAX_DIRECTORIES {
                    return Err(TreeError::Limit("it has too many directories"));
                }
                let (directory, name) = self.place(&entry.path)?;
                mkdirat(directory, name, PRIVATE)
                    .map_err(|error| TreeError::io("create", &entry.path, error))?;
                self.directories.push(entry.clone());
            }
            Kind::File { size } => {
                let (directory, name) = self.place(&entry.path)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = openat(directory, name, flags, FILE)
                    .map_err(|error| TreeError::io("create", &entry.path, error))?;
                self.open = Some(Open {
                    file: file.into(),
                    entry: entry.clone(),
                    left: *size,
                    ends_in_hole: false,
                });
            }
            Kind::HardLink { target } => self.link(entry, target)?,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Socket
                if !self.policy.privileges =>
            {
                self.skip(&entry.path);
            }
            _ => self.create_special(entry)?,
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        let Some(open) = &mut self.open else {
            return Err(TreeError::invalid(b"", "content of nothing"));
        };
        open.take(bytes.len() as u64)?;
        open.ends_in_hole = false;
        let written = open.file.write_all(bytes);
        written.map_err(|error| TreeError::io("write", &open.entry.path, error))
    }

    fn hole(&mut self, length: u64) -> Result<(), TreeError> {
        let Some(open) = &mut self.open else {
            return Err(TreeError::invalid(b"", "content of nothing"));
        };
        open.take(length)?;
        let failed = |error| TreeError::io("write", &open.entry.path, error);
        let by = i64::try_from(length).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        open.ends_in_hole = true;
        open.file.seek(SeekFrom::Current(by)).map_err(failed)?;
        Ok(())
    }
}

impl Open {
    fn take(&mut self, length: u64) -> Result<(), TreeError> {
        self.left = self
            .left
            .checked_sub(length)
            .ok_or_else(|| TreeError::invalid(&self.entry.path, "its content is too long"))?;
        Ok(())
    }
}

/// The files that were not written because of the [`Policy`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: u64,
    /// The paths of the first.
    pub first: Vec<Vec<u8>>,
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(entry.uid)),
        Some(Gid::from_raw(entry.gid)),
    )
}

/// Both times are that of the last modification, as after `tar -x`.
fn times(modified: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: modified.seconds,
        // Beyond a second, the call would be refused.
        tv_nsec: modified.nanos.min(999_999_999).into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// The times of a file.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    times(Time {
        seconds: stat.st_mtime,
        nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests;
