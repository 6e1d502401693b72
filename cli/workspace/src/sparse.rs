//! Copies of files with holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{SeekFrom as Find, ioctl_ficlone, seek};
use rustix::io::Errno;

/// How much is copied before it is looked whether the copy is still wanted, in bytes.
const PIECE: u64 = 16 << 20;

/// Calls `data` with the begin and the end of each part of the first `size` bytes of `file` that is
/// not a hole, in order.
///
/// # Errors
/// Those of the file system and of `data`.
pub fn each_data(
    file: &File,
    size: u64,
    mut data: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut offset = 0;
    while offset < size {
        let start = match seek(file, Find::Data(offset)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => break,
            // Without SEEK_DATA, everything is data.
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, Find::Hole(start)).unwrap_or(size).min(size);
        data(start, end)?;
        offset = end;
    }
    Ok(())
}

/// Creates a file that the owner alone can read.
///
/// # Errors
/// Those of the file system; also if there is one.
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    (options.read(true).write(true).create_new(true).mode(0o600)).open(path)
}

/// Makes `to` a reflink of `from`; `false` if the file system has none, or the files are on two.
///
/// # Errors
/// Those of the file system.
pub fn reflink(from: &File, to: &File) -> io::Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Copies `from` to the empty file `to`, as cheaply as the file system allows, until `stop` is set.
///
/// # Errors
/// Those of the file system, and [`io::ErrorKind::Interrupted`] if it was stopped.
pub fn copy(from: &File, mut to: &File, stop: &AtomicBool) -> io::Result<()> {
    if reflink(from, to)? {
        return Ok(());
    }
    let size = from.metadata()?.len();
    each_data(from, size, |start, end| {
        let mut from = from;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        let mut left = end - start;
        while left > 0 {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let copied = io::copy(&mut Read::take(from, left.min(PIECE)), &mut to)?;
            if copied == 0 {
                return Ok(());
            }
            left -= copied;
        }
        Ok(())
    })?;
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_has_the_content_and_the_holes_and_can_be_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let file = File::create_new(&source).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(&[7; 100_000], 32 << 20).unwrap();
        let file = File::open(&source).unwrap();
        let target = directory.path().join("target");
        let to = File::create_new(&target).unwrap();
        copy(&file, &to, &AtomicBool::new(false)).unwrap();
        assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
        assert!(fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
        let other = File::create_new(directory.path().join("other")).unwrap();
        let stopped = copy(&file, &other, &AtomicBool::new(true));
        // A reflink takes no time.
        if !reflink(&file, &other).unwrap() {
            assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
        }
    }
}
