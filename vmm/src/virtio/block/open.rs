//! From a disk's configuration to its device.
//!
//! An image that outlives its VM is locked (flock(2)) for as long as the device is there: for
//! itself alone when it is written, with others when it is only read. Two kernels that write one
//! file system destroy it, and one that reads what another writes sees nonsense. What is under an
//! overlay is not locked; whoever gives a VM such an image vouches that nobody writes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::control::{DiskConfig, DiskMode};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Backend, Block, Overlay, Raw, SECTOR};

/// How long the lock on an image is waited for: a supervisor that was killed a moment ago holds it
/// until the kernel has taken its VM apart.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is asked for meanwhile; flock(2) has no time limit.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The image cannot be opened as its mode asks.
    #[error("cannot open disk {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image is empty or ends within a sector.
    #[error("disk {} has {len} bytes, which is not a whole number of 512-byte sectors above zero", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
    },
    /// Another VM has the image.
    #[error("disk {} is in use by another VM", path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// The image is on a file system that has no locks.
    #[error("cannot lock disk {}", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The delta of an overlay cannot be made.
    #[error("cannot create a disk delta in {}", dir.display())]
    Delta {
        /// The directory it was to be in.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl BlockError {
    /// The way out, where there is one.
    pub fn remediation(&self) -> Option<String> {
        match self {
            BlockError::InUse { .. } => {
                Some("wait for that VM's end, or attach a copy of the disk".into())
            }
            _ => None,
        }
    }
}

/// Opens a disk. `id` is what the guest finds as its serial number.
///
/// # Errors
/// [`BlockError`], which names the file.
pub fn open(config: &DiskConfig, id: &str) -> Result<Block, BlockError> {
    let writable = config.mode == DiskMode::ReadWrite;
    let (file, len) = open_image(&config.path, writable)?;
    let backend: Box<dyn Backend> = match &config.mode {
        DiskMode::ReadOnly | DiskMode::ReadWrite => {
            lock(&file, &config.path, writable)?;
            Box::new(Raw::new(file, len, !writable))
        }
        DiskMode::Overlay { scratch_dir } => {
            let overlay = tempfile::tempfile_in(scratch_dir)
                .and_then(|delta| Overlay::new(file, len, delta))
                .map_err(|source| BlockError::Delta {
                    dir: scratch_dir.clone(),
                    source,
                })?;
            Box::new(overlay)
        }
    };
    Ok(Block::new(backend, id))
}

fn open_image(path: &Path, writable: bool) -> Result<(File, u64), BlockError> {
    let open = || {
        let mut file = OpenOptions::new().read(true).write(writable).open(path)?;
        // Seeking finds the size of block devices too.
        let len = file.seek(SeekFrom::End(0))?;
        Ok((file, len))
    };
    let (file, len) = open().map_err(|source| BlockError::Open {
        path: path.to_owned(),
        source,
    })?;
    if len == 0 || !len.is_multiple_of(SECTOR) {
        return Err(BlockError::Size {
            path: path.to_owned(),
            len,
        });
    }
    Ok((file, len))
}

/// Locks an image for as long as this file is open: for one that writes alone, or for all that
/// only read. Waits two seconds at most. `path` is what errors name.
///
/// # Errors
/// [`BlockError::InUse`] and [`BlockError::Lock`].
pub fn lock(file: &File, path: &Path, writable: bool) -> Result<(), BlockError> {
    let operation = match writable {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => thread::sleep(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK) => {
                return Err(BlockError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => {
                return Err(BlockError::Lock {
                    path: path.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::NamedTempFile {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4096).unwrap();
        image
    }

    fn open_as(image: &Path, mode: DiskMode) -> Result<Block, BlockError> {
        let path = image.to_owned();
        open(&DiskConfig { path, mode }, "disk")
    }

    #[test]
    fn a_disk_that_is_written_is_for_one_vm_alone() {
        let image = image();
        let first = open_as(image.path(), DiskMode::ReadWrite).unwrap();
        for mode in [DiskMode::ReadWrite, DiskMode::ReadOnly] {
            let error = open_as(image.path(), mode).unwrap_err();
            assert!(matches!(error, BlockError::InUse { .. }), "{error}");
        }
        drop(first);
        open_as(image.path(), DiskMode::ReadWrite).unwrap();
    }

    #[test]
    fn a_disk_that_is_read_is_shared_with_readers_alone() {
        let image = image();
        let _first = open_as(image.path(), DiskMode::ReadOnly).unwrap();
        let _second = open_as(image.path(), DiskMode::ReadOnly).unwrap();
        let error = open_as(image.path(), DiskMode::ReadWrite).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("disk {} is in use by another VM", image.path().display())
        );
    }

    #[test]
    fn a_lock_that_is_given_up_meanwhile_is_taken() {
        let image = image();
        let first = open_as(image.path(), DiskMode::ReadWrite).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| open_as(image.path(), DiskMode::ReadWrite));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
