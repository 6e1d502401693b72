//! Reading a tree below an open directory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use microagent_proto::tree::{Attribute, Entry, Kind, Time};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom as Find, Stat, fgetxattr, flistxattr, fstat, major,
    minor, openat, readlinkat, seek, statat,
};
use rustix::io::Errno;

use crate::directory::names;
use crate::path::{MAX_DEPTH, join};
use crate::{Sink, TreeError};

/// The size of the pieces in which content is passed on, in bytes.
const PIECE: usize = 64 << 10;

/// The largest list of names and the largest value of attributes (`XATTR_LIST_MAX`,
/// `XATTR_SIZE_MAX`), in bytes.
const ATTRIBUTES: usize = 64 << 10;

/// The maximum number of files with several names that are remembered.
const MAX_LINKED: usize = 1 << 20;

/// What to read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The directory.
    pub directory: &'a OwnedFd,
    /// The name in it; `.` for the directory itself.
    pub name: &'a OsStr,
    /// Read the files of other file systems that are mounted in the tree.
    pub cross_mounts: bool,
}

/// Passes the tree of `source` to `sink`. A symbolic link at its top is read as a link.
///
/// # Errors
/// Those of the file system and of the sink. A file that disappears meanwhile is left out.
pub fn read(source: Source<'_>, sink: &mut dyn Sink) -> Result<(), TreeError> {
    let mut reader = Reader {
        sink,
        linked: HashMap::new(),
        device: None,
        cross_mounts: source.cross_mounts,
        piece: vec![0; PIECE.max(ATTRIBUTES)],
        names: vec![0; ATTRIBUTES],
    };
    let directory = source
        .directory
        .try_clone()
        .map_err(|error| TreeError::io("read", b"", error))?;
    let found = reader.file(&directory, source.name, b"", true)?;
    let Some(top) = found else {
        return Ok(());
    };
    // What is left to read: open directories with the names that are still to come.
    let mut open = vec![Level::open(top, Vec::new())?];
    while let Some(level) = open.last_mut() {
        let Some(name) = level.names.pop() else {
            open.pop();
            continue;
        };
        let path = join(&level.path, &name);
        let found = reader.file(&level.directory, OsStr::from_bytes(&name), &path, false)?;
        if let Some(directory) = found {
            if open.len() >= MAX_DEPTH {
                return Err(TreeError::Limit("it has too many nested directories"));
            }
            open.push(Level::open(directory, path)?);
        }
    }
    Ok(())
}

/// A directory that is being read.
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    /// The names that are still to come, the next at the end.
    names: Vec<Vec<u8>>,
}

impl Level {
    fn open(directory: OwnedFd, path: Vec<u8>) -> Result<Level, TreeError> {
        let failed = |error: Errno| TreeError::io("read", &path, error);
        let names = names(&directory).map_err(failed)?;
        let mut names: Vec<_> = names.into_iter().map(OsString::into_vec).collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            directory,
            path,
            names,
        })
    }
}

struct Reader<'a> {
    sink: &'a mut dyn Sink,
    /// The first paths of files with several names, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The device of the top.
    device: Option<u64>,
    cross_mounts: bool,
    /// A piece of content, or the value of an attribute.
    piece: Vec<u8>,
    /// The names of attributes.
    names: Vec<u8>,
}

impl Reader<'_> {
    /// Passes on one file; a directory is returned.
    fn file(
        &mut self,
        at: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        must_exist: bool,
    ) -> Result<Option<OwnedFd>, TreeError> {
        let failed = |error: Errno| TreeError::io("read", path, error);
        let stat = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if !must_exist => return Ok(None),
            stat => stat.map_err(failed)?,
        };
        let top = *self.device.get_or_insert(stat.st_dev);
        let elsewhere = stat.st_dev != top;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
        let kind = match kind {
            FileType::Directory | FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = match openat(at, name, flags, Mode::empty()) {
                    Err(Errno::NOENT | Errno::LOOP) if !must_exist => return Ok(None),
                    file => file.map_err(failed)?,
                };
                // What is open decides: another file may have this name by now.
                let stat = fstat(&file).map_err(failed)?;
                return self.open_file(file, &stat, path, elsewhere && !self.cross_mounts);
            }
            FileType::Symlink => Kind::Symlink {
                target: match readlinkat(at, name, Vec::new()) {
                    Err(Errno::NOENT | Errno::INVAL) if !must_exist => return Ok(None),
                    target => target.map_err(failed)?.into_bytes(),
                },
            },
            FileType::CharacterDevice => Kind::CharDevice {
                major: numbers.0,
                minor: numbers.1,
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: numbers.0,
                minor: numbers.1,
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => return Err(TreeError::invalid(path, "a file of an unknown type")),
        };
        let kind = match self.first_name(&stat, path)? {
            Some(target) => Kind::HardLink { target },
            None => kind,
        };
        self.sink.entry(&entry(&stat, kind, path, Vec::new()))?;
        Ok(None)
    }

    /// Passes on a file or directory that is open; a directory is returned, unless only its entry is
    /// wanted.
    fn open_file(
        &mut self,
        file: OwnedFd,
        stat: &Stat,
        path: &[u8],
        is_mount: bool,
    ) -> Result<Option<OwnedFd>, TreeError> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let attributes = self.attributes(&file, path)?;
                self.sink
                    .entry(&entry(stat, Kind::Directory, path, attributes))?;
                Ok((!is_mount).then_some(file))
            }
            FileType::RegularFile => {
                if let Some(target) = self.first_name(stat, path)? {
                    let link = Kind::HardLink { target };
                    self.sink.entry(&entry(stat, link, path, Vec::new()))?;
                    return Ok(None);
                }
                let size = stat.st_size.max(0).unsigned_abs();
                let attributes = self.attributes(&file, path)?;
                self.sink
                    .entry(&entry(stat, Kind::File { size }, path, attributes))?;
                self.content(&file.into(), size, path)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The first path of a file that has several names, if this is another one.
    fn first_name(&mut self, stat: &Stat, path: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        if stat.st_nlink <= 1 {
            return Ok(None);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.linked.get(&key) {
            return Ok(Some(first.clone()));
        }
        if self.linked.len() >= MAX_LINKED {
            return Err(TreeError::Limit("it has too many hard links"));
        }
        self.linked.insert(key, path.to_vec());
        Ok(None)
    }

    /// Passes on the content, with its holes.
    fn content(&mut self, file: &File, size: u64, path: &[u8]) -> Result<(), TreeError> {
        let failed = |error: io::Error| TreeError::io("read", path, error);
        let mut offset = 0;
        while offset < size {
            let start = match seek(file, Find::Data(offset)) {
                Ok(start) => start.min(size),
                Err(Errno::NXIO) => size,
                // Without SEEK_DATA, everything is data.
                Err(Errno::INVAL) => offset,
                Err(error) => return Err(failed(error.into())),
            };
            if start > offset {
                self.sink.hole(start - offset)?;
            }
            let end = match seek(file, Find::Hole(start)) {
                Ok(end) if end > start => end.min(size),
                _ => size,
            };
            offset = start;
            while offset < end {
                let part = (end - offset).min(PIECE as u64) as usize;
                let read = file
                    .read_at(&mut self.piece[..part], offset)
                    .map_err(failed)?;
                if read == 0 {
                    return Err(TreeError::Truncated(path.into()));
                }
                self.sink.data(&self.piece[..read])?;
                offset += read as u64;
            }
        }
        Ok(())
    }

    /// The extended attributes of an open file, sorted by name.
    fn attributes(&mut self, file: impl AsFd, path: &[u8]) -> Result<Vec<Attribute>, TreeError> {
        let file = file.as_fd();
        let failed = |error: Errno| TreeError::io("read the attributes of", path, error);
        let length = match flistxattr(file, &mut self.names) {
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            length => length.map_err(failed)?,
        };
        let mut found = Vec::new();
        let names = self.names.get(..length).unwrap_or_default();
        for name in names.split(|&byte| byte == 0).filter(|n| !n.is_empty()) {
            let value = &mut self.piece[..ATTRIBUTES];
            let length = match fgetxattr(file, OsStr::from_bytes(name), &mut *value) {
                // Removed meanwhile, or not readable for this user.
                Err(Errno::NODATA | Errno::PERM | Errno::NOTSUP) => continue,
                length => length.map_err(failed)?,
            };
            found.push(Attribute {
                name: name.to_vec(),
                value: value.get(..length).unwrap_or_default().to_vec(),
            });
        }
        found.sort_unstable();
        Ok(found)
    }
}

fn entry(stat: &Stat, kind: Kind, path: &[u8], attributes: Vec<Attribute>) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: Time {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        },
        attributes,
    }
}
