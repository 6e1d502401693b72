//! A short private directory for the sockets of one VM.
//!
//! It is `$XDG_RUNTIME_DIR/microagent/ID`, or `/tmp/microagent-UID/ID` if that variable is unset,
//! or its directory belongs to another user or has too long a path: a Unix socket path has at most
//! 107 bytes, so the directory must not depend on the state directory. The process that created it
//! holds a lock on it; an unlocked directory is a leftover, which the next run removes. There is no
//! lock that several processes wait for: one that finds its new directory taken for a leftover makes
//! another one.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use microagent_pipeline::ErrorKind;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::shell;

/// Maximum length of a Unix socket path in bytes (`sun_path` without its NUL).
const MAX_SOCKET_PATH: usize = 107;
/// Length of the directory's name in bytes.
const ID: usize = 8;
/// Maximum length of `/` and a socket's file name in the directory, in bytes.
const SOCKET_NAME: usize = 32;

/// The run directory cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// A system call failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What failed, as a verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The parent directory belongs to another user or grants access to others.
    #[error("{} belongs to another user or is accessible to others", .path.display())]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// Whether it is a directory of this user, so that its permissions can be changed.
        ours: bool,
    },
    /// Its path is too long for sockets.
    #[error("{} is too long for a socket path", .0.display())]
    TooLong(PathBuf),
}

impl RunDirError {
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RunDirError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                ErrorKind::NoSpace
            }
            RunDirError::NotPrivate { .. } => ErrorKind::Permission,
            RunDirError::Io { .. } | RunDirError::TooLong(_) => ErrorKind::Host,
        }
    }

    /// What the user can do about it, if anything.
    pub fn remediation(&self) -> Option<String> {
        match self {
            // Removing it would break this user's other runs.
            RunDirError::NotPrivate { path, ours: true } => {
                Some(format!("make it private: chmod 700 {}", shell::word(path)))
            }
            RunDirError::NotPrivate { path, ours: false } => {
                Some(format!("remove it: sudo rm -r {}", shell::word(path)))
            }
            RunDirError::Io { .. } if self.kind() == ErrorKind::Host => {
                Some("set XDG_RUNTIME_DIR to a writable directory with a short path".to_owned())
            }
            RunDirError::Io { .. } | RunDirError::TooLong(_) => None,
        }
    }
}

/// A run directory. Dropping it removes it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Creates a directory, and removes leftovers of dead processes.
    pub fn create() -> Result<RunDir, RunDirError> {
        RunDir::create_in(&parent())
    }

    /// The same outside `$XDG_RUNTIME_DIR`, which is removed when its user has logged out.
    pub fn create_for_daemon() -> Result<RunDir, RunDirError> {
        RunDir::create_in(&of_user())
    }

    fn create_in(parent: &Path) -> Result<RunDir, RunDirError> {
        ensure_private(parent)?;
        sweep(parent);
        loop {
            let directory = tempfile::Builder::new()
                .prefix("")
                .rand_bytes(ID)
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(parent)
                .map_err(|error| failed("create a directory in", parent, error))?;
            let path = directory.path().to_owned();
            if !socket_path_fits(&path, 0) {
                return Err(RunDirError::TooLong(path));
            }
            match try_lock(&path) {
                Ok(Some(lock)) => {
                    return Ok(RunDir {
                        path: directory.keep(),
                        _lock: lock,
                    });
                }
                // Another process removes it, because it was not locked yet.
                Ok(None) => {}
                Err(error) => {
                    // Not recursively, which needs a descriptor: it may be the lack of one that failed.
                    let _ = fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
    }

    /// Removes what dead processes left of [`RunDir::create_for_daemon`].
    pub fn sweep_for_daemon() {
        let parent = of_user();
        if check_private(&parent).is_ok() {
            sweep(&parent);
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Not recursively at first, which needs a descriptor: there may be none left.
        if fs::remove_dir(&self.path).is_err() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn parent() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let ours = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid)
    };
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        // It is in a message to the supervisor, which is JSON.
        .filter(|path| path.is_absolute() && path.to_str().is_some() && ours(path))
        .map(|path| path.join("microagent"))
        .filter(|path| socket_path_fits(path, ID + 1))
        .unwrap_or_else(of_user)
}

/// The directory in `/tmp`. The locks in it keep it from being cleaned up (systemd-tmpfiles(8)).
fn of_user() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    PathBuf::from(format!("/tmp/microagent-{uid}"))
}

/// Whether a socket path fits in a directory whose path is `more` bytes longer than `path`.
fn socket_path_fits(path: &Path, more: usize) -> bool {
    path.as_os_str().len() + more + SOCKET_NAME <= MAX_SOCKET_PATH
}

/// Creates `path` if it is missing, and checks that only this user can access it.
fn ensure_private(path: &Path) -> Result<(), RunDirError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("create", path, error)),
    }
    check_private(path)
}

fn check_private(path: &Path) -> Result<(), RunDirError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| failed("stat", path, error))?;
    let ours = metadata.is_dir() && metadata.uid() == rustix::process::getuid().as_raw();
    match ours && metadata.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(RunDirError::NotPrivate {
            path: path.to_owned(),
            ours,
        }),
    }
}

/// Removes directories whose process has died. Errors are ignored: the next run tries again.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if let Ok(Some(_lock)) = try_lock(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// The lock of a directory; `None` if another process holds it, or has removed the directory.
fn try_lock(directory: &Path) -> Result<Option<File>, RunDirError> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let handle = match File::open(directory) {
        Err(error) if gone(&error) => return Ok(None),
        opened => opened.map_err(|error| failed("open", directory, error))?,
    };
    match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked.map_err(|error| failed("lock", directory, error))?,
    }
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let held = handle.metadata().map(identity);
    let held = held.map_err(|error| failed("stat", directory, error))?;
    match fs::metadata(directory).map(identity) {
        Ok(found) if found == held => Ok(Some(handle)),
        Ok(_) => Ok(None),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(failed("stat", directory, error)),
    }
}

fn failed(action: &'static str, path: &Path, error: impl Into<io::Error>) -> RunDirError {
    RunDirError::Io {
        action,
        path: path.to_owned(),
        source: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_removed_and_a_directory_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().join("m");
        let living = RunDir::create_in(&parent).unwrap();
        let dead = parent.join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("socket"), "").unwrap();
        let second = RunDir::create_in(&parent).unwrap();
        assert!(living.path().exists() && second.path().exists());
        assert!(!dead.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }

    #[test]
    fn processes_wait_for_no_other_one_and_each_keeps_its_directory() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path().join("m");
        drop(RunDir::create_in(&parent).unwrap());
        // As a process that was stopped in the middle might hold it.
        let held = File::open(&parent).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let directory = RunDir::create_in(&parent).unwrap();
                        fs::write(directory.path().join("socket"), "").unwrap();
                        assert!(try_lock(directory.path()).unwrap().is_none());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 0);
    }

    #[test]
    fn a_parent_accessible_to_others_is_rejected() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            RunDir::create_in(&open),
            Err(RunDirError::NotPrivate { ours: true, .. })
        ));
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(matches!(
            RunDir::create_in(&link),
            Err(RunDirError::NotPrivate { ours: false, .. })
        ));
    }

    #[test]
    fn a_parent_too_long_for_sockets_is_rejected_and_left_empty() {
        let parent = tempfile::tempdir().unwrap();
        let long = parent.path().join("x".repeat(80));
        assert!(matches!(
            RunDir::create_in(&long),
            Err(RunDirError::TooLong(_))
        ));
        assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
    }
}
