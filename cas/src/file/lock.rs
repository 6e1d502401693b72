//! Locks between processes and threads: flock(2) on files in `locks/`.
//!
//! The kernel releases such a lock when its holder dies, so there are no stale locks and no pids
//! to check. `locks/` contains two kinds of files:
//! - gates (`gc`, `index`, `tmp`, `store`), which are permanent;
//! - transient locks, one per node being computed (`node-<hex>`), unlinked by the holder at
//!   release. A waiter that acquires the lock of an unlinked file retries with the new file, so
//!   two holders never hold different files of the same name.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::StoreError;

/// A held lock. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: File,
    path: PathBuf,
    transient: bool,
}

/// The exclusive right to compute one node. Dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct NodeLock {
    _lock: LockFile,
}

impl NodeLock {
    pub(crate) fn acquire(path: PathBuf) -> Result<NodeLock, StoreError> {
        Ok(NodeLock {
            _lock: LockFile::acquire(path, FlockOperation::LockExclusive, true)?,
        })
    }
}

impl LockFile {
    /// Waits for a gate.
    pub(crate) fn gate(path: PathBuf, operation: FlockOperation) -> Result<LockFile, StoreError> {
        LockFile::acquire(path, operation, false)
    }

    /// Takes a gate exclusively; `None` when it is held.
    pub(crate) fn try_gate(path: PathBuf) -> Result<Option<LockFile>, StoreError> {
        let file = open(&path)?;
        let free = try_exclusive(&file).map_err(|error| StoreError::io("lock", &path, error))?;
        Ok(free.then_some(LockFile {
            file,
            path,
            transient: false,
        }))
    }

    fn acquire(
        path: PathBuf,
        operation: FlockOperation,
        transient: bool,
    ) -> Result<LockFile, StoreError> {
        loop {
            let file = open(&path)?;
            flock(&file, operation).map_err(|error| StoreError::io("lock", &path, error))?;
            if !transient || is_current(&file, &path)? {
                return Ok(LockFile {
                    file,
                    path,
                    transient,
                });
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if self.transient {
            // Before unlocking, so that waiters see that the name is gone. A leftover file is
            // harmless, so an error is ignored.
            let _ = fs::remove_file(&self.path);
        }
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Removes a transient lock file unless it is held; returns whether it was removed.
pub(crate) fn remove_if_free(path: &Path) -> Result<bool, StoreError> {
    let Some(file) = open_existing(path)? else {
        return Ok(false);
    };
    if !try_exclusive(&file).map_err(|error| StoreError::io("lock", path, error))?
        || !is_current(&file, path)?
    {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        // Removed by somebody who does not lock.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("remove", path, error)),
    }
}

/// Takes the exclusive lock of an open file or directory; false when it is held.
pub(crate) fn try_exclusive(file: &File) -> Result<bool, Errno> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error),
    }
}

/// flock(2), retried after EINTR.
pub(crate) fn flock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
}

/// Opens a file or directory of another owner, to take its lock; `None` when it is absent. For
/// writing where that is possible: over NFS, flock(2) is emulated by fcntl(2), whose exclusive
/// locks need it.
pub(crate) fn open_existing(path: &Path) -> Result<Option<File>, StoreError> {
    let writable = File::options().read(true).write(true).open(path);
    // A directory, or a read-only file.
    let file = writable.or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Err(error),
        _ => File::open(path),
    });
    match file {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", path, error)),
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| StoreError::io("open", path, error))
}

/// Whether `path` still names the open file.
pub(crate) fn is_current(file: &File, path: &Path) -> Result<bool, StoreError> {
    let held = file
        .metadata()
        .map_err(|error| StoreError::io("inspect", path, error))?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("inspect", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_transient_lock_has_one_holder_at_a_time_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-x");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = NodeLock::acquire(path.clone()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_held_lock_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node-x");
        let lock = NodeLock::acquire(path.clone()).unwrap();
        assert!(!remove_if_free(&path).unwrap());
        std::mem::forget(lock); // As after a kill: the file remains.
        File::create(dir.path().join("node-y")).unwrap();
        assert!(remove_if_free(&dir.path().join("node-y")).unwrap());
    }
}
