//! Opening files by paths of the guest.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat,
    statat,
};
use rustix::io::Errno;

/// Linux follows at most this many symbolic links in a path.
const MAX_LINKS: usize = 40;

/// The root of the calling thread.
pub fn root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, "/", flags, Mode::empty())?)
}

/// Opens `path` below `root`.
pub fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A path changed meanwhile, and `..` in it might have led out.
            Err(Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
}

/// Makes the directories of `path` that do not exist, up to its last slash.
pub fn make_directories(path: &Path) -> io::Result<()> {
    let root = root()?;
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let mut made = PathBuf::from("/");
    for part in Path::new(OsStr::from_bytes(&bytes[..end])).components() {
        if let Component::Normal(name) = part {
            let parent = open_in(&root, &made, OFlags::PATH | OFlags::DIRECTORY)?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => made.push(name),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The directory and the name in it of the file at `path`; the name `.` stands for the directory
/// itself. A symbolic link at the end is followed only with `follow` or a slash after it.
pub fn locate(root: impl AsFd, path: &Path, follow: bool) -> io::Result<(OwnedFd, OsString)> {
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let mut path = path.to_owned();
    for _ in 0..=MAX_LINKS {
        let bytes = path.as_os_str().as_bytes();
        let slash = bytes.ends_with(b"/");
        // `file_name` is `None` for the root and `..`; `.` at the end is not a name either.
        let name = match (path.file_name(), bytes.ends_with(b"/.")) {
            (Some(name), false) => name.to_owned(),
            _ => return Ok((open_in(&root, &path, directory)?, ".".into())),
        };
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        let parent = if parent.as_os_str().is_empty() {
            PathBuf::from("/")
        } else {
            parent
        };
        let opened = open_in(&root, &parent, directory)?;
        let stat = statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Symlink || !(follow || slash) {
            return match slash && kind != FileType::Directory {
                true => Err(Errno::NOTDIR.into()),
                false => Ok((opened, name)),
            };
        }
        let target = readlinkat(&opened, &name, Vec::new())?.into_bytes();
        let mut next = parent
            .join(OsStr::from_bytes(&target))
            .into_os_string()
            .into_vec();
        if slash {
            next.push(b'/');
        }
        path = OsString::from_vec(next).into();
    }
    Err(Errno::LOOP.into())
}
