//! Copies of disk images, as cheap as the file system allows: a reflink, otherwise a sparse copy.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom as Find, ioctl_ficlone, seek};
use rustix::io::Errno;

use microagent_pipeline::ErrorKind;

use crate::failure::Failure;

/// A copy failed. Nothing is left at the target.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", .path.display())]
pub struct CopyError {
    path: PathBuf,
    source: io::Error,
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Failure {
        let kind = match error.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Permission
            }
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Host,
        };
        Failure::caused(kind, &error)
    }
}

/// Copies `source` to `target` atomically, replacing an existing file.
pub fn copy(source: &Path, target: &Path) -> Result<(), CopyError> {
    try_copy(source, target).map_err(|source| CopyError {
        path: target.to_owned(),
        source,
    })
}

fn try_copy(source: &Path, target: &Path) -> io::Result<()> {
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut from = File::open(source)?;
    let handle = File::open(directory)?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".microagent-")
        .permissions(ordinary())
        .tempfile_in(directory)
        // The error's own text names the temporary file, which means nothing to the user.
        .map_err(|error| io::Error::from(error.kind()))?;
    match ioctl_ficlone(temporary.as_file(), &from) {
        Ok(()) => {}
        // Another file system, or one without reflinks.
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => {
            copy_data(&mut from, temporary.as_file_mut())?;
        }
        Err(error) => return Err(error.into()),
    }
    temporary.as_file().sync_all()?;
    temporary.persist(target)?;
    handle.sync_all()
}

fn ordinary() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o644)
}

fn copy_data(from: &mut File, to: &mut File) -> io::Result<()> {
    let size = from.metadata()?.len();
    let mut offset = 0;
    while offset < size {
        let start = match seek(&*from, Find::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // Without SEEK_DATA, everything is data.
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = seek(&*from, Find::Hole(start)).unwrap_or(size).min(size);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut Read::take(&*from, end - start), to)?;
        offset = end;
    }
    to.set_len(size)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_copy_keeps_the_content_and_the_holes() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let file = File::create(&source).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "old").unwrap();
        copy(&source, &target).unwrap();
        assert!(fs::read(&source).unwrap() == fs::read(&target).unwrap());
        assert!(fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failed_copy_leaves_nothing_and_names_the_target() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("missing/target");
        let error = copy(Path::new("/dev/null"), &target).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot write {}", target.display())
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
