//! The lock of a workspace: held by the process that is responsible for it, which is how all others
//! know that it lives. Nothing else is trusted: a pid may belong to another process by now.
//!
//! It is an open file description lock (`fcntl(2)`, `F_OFD_SETLK`), because that can be queried
//! without being taken: `status` never makes a `start` fail. A child inherits it, so it can be
//! handed over without a gap, and the kernel releases it when the last descriptor is closed,
//! however its process ends.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, flock};

/// A lock that this process holds.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock in the file `path`, which is created if it is missing. `None` if another
    /// process holds it.
    ///
    /// # Errors
    /// Those of the file system; `EOPNOTSUPP` and the like if it has no locks.
    pub fn acquire(path: &Path) -> io::Result<Option<Lock>> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.mode(0o600).open(path)?;
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(F_WRLCK))) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The workspace may have been deleted, and made again, since the file was opened.
            let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
            if identity(file.metadata()?) == identity(fs::metadata(path)?) {
                return Ok(Some(Lock(file)));
            }
        }
    }

    /// The lock that another process has taken and handed over with its descriptor.
    pub fn inherited(descriptor: OwnedFd) -> Lock {
        Lock(descriptor.into())
    }

    /// The descriptor to hand over.
    pub fn descriptor(&self) -> &impl AsFd {
        &self.0
    }

    /// The file, whose content belongs to the holder.
    pub fn file(&self) -> &File {
        &self.0
    }
}

/// Whether any process holds the lock in the file `path`. A file that does not exist is not locked.
///
/// # Errors
/// As [`Lock::acquire`].
pub fn is_held(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    // Would a shared lock be refused?
    let mut query = whole_file(F_RDLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut query))?;
    Ok(i32::from(query.l_type) != F_UNLCK)
}

/// A lock of all bytes of a file.
fn whole_file(kind: i32) -> flock {
    flock {
        l_type: kind as i16,
        l_whence: SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        // Must be 0 for these locks (fcntl(2)).
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn one_process_holds_it_and_a_query_takes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let lock = Lock::acquire(&path).unwrap().unwrap();
        assert!(is_held(&path).unwrap());
        assert!(Lock::acquire(&path).unwrap().is_none());
        drop(lock);
        let open = File::open(&path).unwrap();
        assert!(!is_held(&path).unwrap());
        assert!(Lock::acquire(&path).unwrap().is_some());
        drop(open);
    }

    #[test]
    fn a_child_that_inherits_it_holds_it_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let lock = Lock::acquire(&path).unwrap().unwrap();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(lock.file().try_clone().unwrap())
            .spawn()
            .unwrap();
        drop(lock);
        assert!(is_held(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_held(&path).unwrap());
    }
}
