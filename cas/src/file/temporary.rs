//! Files being written: unnamed where the file system supports `O_TMPFILE`, so that a killed
//! process leaves nothing; otherwise named in `tmp/` and locked while the owner lives, so that a
//! sweep can distinguish them from leftovers.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::error::StoreError;
use crate::file::directory::sync_parent;
use crate::file::lock::{self, LockFile};
use crate::file::partial::PartialFile;
use crate::file::seal;

/// How often removal of a directory is retried while a dying process adds files to it.
const SWEEP_ATTEMPTS: u32 = 100;

/// The directory `tmp/`, and the gate that excludes a sweep between the creation of a named file
/// and its lock.
#[derive(Debug)]
pub(crate) struct TemporaryDir {
    pub(crate) path: PathBuf,
    pub(crate) gate: PathBuf,
    /// Whether to try `O_TMPFILE`. False only in tests of the fallback.
    pub(crate) unnamed: bool,
}

#[derive(Debug)]
pub(crate) enum Temporary {
    /// Has no name; `dir` appears in messages.
    Unnamed { file: File, dir: PathBuf },
    /// Named in `tmp/` and locked.
    Named(NamedTempFile),
    /// Named in `partial/`, and kept on drop.
    Partial(PartialFile),
}

impl TemporaryDir {
    pub(crate) fn create(&self) -> Result<Temporary, StoreError> {
        if self.unnamed {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            match rustix::fs::open(&self.path, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => {
                    return Ok(Temporary::Unnamed {
                        file: fd.into(),
                        dir: self.path.clone(),
                    });
                }
                // open(2): the file system (EOPNOTSUPP) or the kernel (EISDIR, ENOENT) does not
                // support O_TMPFILE.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {}
                Err(error) => return Err(StoreError::io("create a file in", &self.path, error)),
            }
        }
        self.create_named().map(Temporary::Named)
    }

    /// Creates a named file, which can be renamed over another file.
    pub(crate) fn create_named(&self) -> Result<NamedTempFile, StoreError> {
        let _gate = self.enter()?;
        let file = tempfile::Builder::new()
            .prefix("file-")
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(&self.path)
            .map_err(|error| StoreError::io("create a file in", &self.path, error))?;
        lock::flock(file.as_file(), FlockOperation::LockExclusive)
            .map_err(|error| StoreError::io("lock", file.path(), error))?;
        Ok(file)
    }

    /// Creates a directory, and a handle that holds its lock while the owner lives.
    pub(crate) fn create_dir(&self) -> Result<(tempfile::TempDir, File), StoreError> {
        let _gate = self.enter()?;
        let dir = tempfile::Builder::new()
            .prefix("dir-")
            .tempdir_in(&self.path)
            .map_err(|error| StoreError::io("create a directory in", &self.path, error))?;
        let handle =
            File::open(dir.path()).map_err(|error| StoreError::io("open", dir.path(), error))?;
        lock::flock(&handle, FlockOperation::LockExclusive)
            .map_err(|error| StoreError::io("lock", dir.path(), error))?;
        Ok((dir, handle))
    }

    fn enter(&self) -> Result<LockFile, StoreError> {
        LockFile::gate(self.gate.clone(), FlockOperation::LockShared)
    }

    /// Removes the leftovers of dead owners; returns the number of entries removed.
    pub(crate) fn sweep(&self) -> Result<u64, StoreError> {
        let _gate = LockFile::gate(self.gate.clone(), FlockOperation::LockExclusive)?;
        let failed = |action, path: &Path, error| Err(StoreError::io(action, path, error));
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) => return failed("list", &self.path, error),
        };
        let mut removed = 0;
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => return failed("list", &self.path, error),
            };
            let Some(file) = lock::open_existing(&path)? else {
                continue;
            };
            if !lock::try_exclusive(&file).map_err(|error| StoreError::io("lock", &path, error))? {
                continue;
            }
            let result = match file.metadata() {
                Ok(metadata) if metadata.is_dir() => remove_tree(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return failed("remove", &path, error),
            }
        }
        Ok(removed)
    }
}

/// Removes a directory whose owner is dead. A child of the owner may still be exiting and create
/// files meanwhile.
fn remove_tree(path: &Path) -> io::Result<()> {
    let mut result = fs::remove_dir_all(path);
    for _ in 0..SWEEP_ATTEMPTS {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                result = fs::remove_dir_all(path);
            }
            _ => break,
        }
    }
    result
}

impl Temporary {
    pub(crate) fn file(&self) -> &File {
        match self {
            Temporary::Unnamed { file, .. } => file,
            Temporary::Named(named) => named.as_file(),
            Temporary::Partial(partial) => partial.file(),
        }
    }

    /// The path for messages: the file's own, or the directory of an unnamed file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Temporary::Unnamed { dir, .. } => dir,
            Temporary::Named(named) => named.path(),
            Temporary::Partial(partial) => partial.path(),
        }
    }

    /// Discards what a partial file would otherwise keep on drop.
    pub(crate) fn discard_partial(&mut self) {
        if let Temporary::Partial(partial) = self {
            partial.discard();
        }
    }

    /// Makes the content durable and publishes it as `target`, read-only for all users and sealed
    /// (file/seal.rs). An existing `target` is kept if it has the same content; otherwise it is
    /// damaged and replaced.
    pub(crate) fn publish(mut self, target: &Path) -> Result<(), StoreError> {
        if seal::has_content(target, self.file())? {
            self.discard_partial();
        } else {
            let failed = |action| move |error| StoreError::io(action, target, error);
            let read_only = fs::Permissions::from_mode(0o444);
            self.file()
                .set_permissions(read_only)
                .map_err(failed("set permissions of"))?;
            seal::seal(self.file()).map_err(failed("set the time of"))?;
            self.file().sync_all().map_err(failed("sync"))?;
            match self {
                Temporary::Named(named) => {
                    named
                        .persist(target)
                        .map_err(|error| failed("create")(error.error))?;
                }
                Temporary::Partial(partial) => {
                    partial.rename(target).map_err(failed("create"))?;
                }
                Temporary::Unnamed { file, .. } => {
                    while let Err(error) = link(&file, target) {
                        if error != Errno::EXIST {
                            return Err(failed("create")(error.into()));
                        }
                        if seal::has_content(target, &file)? {
                            break;
                        }
                        match fs::remove_file(target) {
                            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                                return Err(failed("replace")(error));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        // Also when another writer published it, which may not have synced the directory yet.
        sync_parent(target)
    }
}

/// Links an unnamed file. Via /proc because `AT_EMPTY_PATH` needs a capability on kernels before
/// 6.10; `AT_EMPTY_PATH` is the fallback where /proc is not mounted.
fn link(file: &File, target: &Path) -> Result<(), Errno> {
    let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(CWD, magic.as_str(), CWD, target, AtFlags::SYMLINK_FOLLOW) {
        Err(Errno::NOENT) => rustix::fs::linkat(file, "", CWD, target, AtFlags::EMPTY_PATH),
        result => result,
    }
}

/// Replaces the small document `target` atomically: readers see the old or the new content.
pub(crate) fn replace(dir: &TemporaryDir, target: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |action| move |error| StoreError::io(action, target, error);
    let named = dir.create_named()?;
    io::Write::write_all(&mut named.as_file(), bytes).map_err(failed("write"))?;
    named.as_file().sync_all().map_err(failed("sync"))?;
    named
        .persist(target)
        .map_err(|error| failed("replace")(error.error))?;
    sync_parent(target)
}
