//! Opening a disk: from its configuration to the device.
//!
//! An image that outlives its VM is locked (flock(2)) for the lifetime of the device: exclusively
//! if it is writable, shared if it is read-only. Two kernels that write to one file system corrupt
//! it, and a kernel that reads a file system that another one writes sees inconsistent data. The
//! base of an overlay is not locked; the caller must ensure that nothing writes to it.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use microagent_proto::control::{DiskConfig, DiskMode};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Backend, Block, Overlay, Presence, PresenceError, Raw, SECTOR};

/// How long to wait for the lock on an image: a supervisor that has just been killed holds it until
/// the kernel has torn down its VM.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to retry meanwhile; flock(2) has no timeout.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The image cannot be opened in its mode.
    #[error("cannot open disk {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The size of the image is zero or not a multiple of the sector size.
    #[error("disk {}: size of {len} bytes is not a positive multiple of 512", path.display())]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        len: u64,
    },
    /// Another VM uses the image.
    #[error("disk {} is in use by another VM", path.display())]
    InUse {
        /// The image.
        path: PathBuf,
    },
    /// The image cannot be locked, for example because its file system does not support locks.
    #[error("cannot lock disk {}", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A delta that is kept cannot be opened.
    #[error("cannot open disk delta {}", path.display())]
    KeptDelta {
        /// The delta.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The presence map of a delta cannot be used.
    #[error("cannot use presence map {}", path.display())]
    Presence {
        /// The presence map.
        path: PathBuf,
        /// The cause.
        #[source]
        source: PresenceError,
    },
    /// The delta of an overlay cannot be created.
    #[error("cannot create a disk delta in {}", dir.display())]
    Delta {
        /// Its directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl BlockError {
    /// What the user can do about it, if anything.
    pub fn remediation(&self) -> Option<String> {
        match self {
            BlockError::InUse { .. } => {
                Some("stop the other VM first, or attach a copy of the disk".into())
            }
            _ => None,
        }
    }
}

/// Opens a disk. `id` is the serial number that the guest reads.
///
/// # Errors
/// [`BlockError`].
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
        DiskMode::Delta { delta, presence } => Box::new(open_delta(file, len, delta, presence)?),
    };
    Ok(Block::new(backend, id))
}

/// The disk of `base` and a delta that is kept.
fn open_delta(base: File, len: u64, delta: &Path, presence: &Path) -> Result<Overlay, BlockError> {
    let open = |path: &Path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).open(path)
    };
    let kept = |source| BlockError::KeptDelta {
        path: delta.to_owned(),
        source,
    };
    let file = open(delta).map_err(kept)?;
    // The lock of the delta is that of both files.
    lock(&file, delta, true)?;
    let unusable = |source| BlockError::Presence {
        path: presence.to_owned(),
        source,
    };
    let map_file = open(presence).map_err(|error| unusable(error.into()))?;
    let length = |file: &File| file.metadata().map(|metadata| metadata.len());
    let (had, mapped) = (
        length(&file).map_err(kept)?,
        length(&map_file).map_err(kept)?,
    );
    let map = Presence::open(map_file, len).map_err(unusable)?;
    // The map gets its header before the delta gets its size, so one without the other is not what
    // a crash leaves: the guest would see its disk as it was once, or zeros.
    let belong_together = match had {
        0 => map.is_empty(),
        had => had == len && mapped != 0,
    };
    if !belong_together {
        return Err(unusable(PresenceError::Other));
    }
    // What a flush makes durable must have a name.
    for path in [delta, presence] {
        sync_directory(path).map_err(kept)?;
    }
    Overlay::kept(base, len, file, map).map_err(kept)
}

fn sync_directory(of: &Path) -> io::Result<()> {
    let parent = of.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn open_image(path: &Path, writable: bool) -> Result<(File, u64), BlockError> {
    let open = || {
        let mut file = OpenOptions::new().read(true).write(writable).open(path)?;
        // Seeking also works for block devices.
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

/// Locks an image until `file` is closed: exclusively if `writable`, else shared. Waits at most two
/// seconds. `path` is for error messages.
///
/// # Errors
/// [`BlockError::InUse`] and [`BlockError::Lock`].
pub fn lock(file: &File, path: &Path, writable: bool) -> Result<(), BlockError> {
    let operation = match writable {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + LOCK_TIMEOUT;
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
    fn a_writable_disk_is_locked_exclusively() {
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
    fn a_read_only_disk_is_locked_shared() {
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
    fn a_kept_delta_belongs_to_one_vm_and_to_one_base() {
        let (base, directory) = (image(), tempfile::tempdir().unwrap());
        let mode = DiskMode::Delta {
            delta: directory.path().join("root.delta"),
            presence: directory.path().join("root.presence"),
        };
        let first = open_as(base.path(), mode.clone()).unwrap();
        // Not a lock on the base: others share it.
        let _other = open_as(base.path(), DiskMode::ReadOnly).unwrap();
        let error = open_as(base.path(), mode.clone()).unwrap_err();
        assert!(matches!(error, BlockError::InUse { .. }), "{error}");
        drop(first);
        drop(open_as(base.path(), mode.clone()).unwrap());
        base.as_file().set_len(8192).unwrap();
        let error = open_as(base.path(), mode).unwrap_err();
        assert!(matches!(error, BlockError::Presence { .. }), "{error}");
    }

    #[test]
    fn a_delta_and_a_map_that_do_not_belong_together_are_refused() {
        let (base, directory) = (image(), tempfile::tempdir().unwrap());
        let (delta, presence) = (directory.path().join("d"), directory.path().join("p"));
        let mode = || DiskMode::Delta {
            delta: delta.clone(),
            presence: presence.clone(),
        };
        let cut = |path: &Path, len: u64| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(len).unwrap();
        };
        drop(open_as(base.path(), mode()).unwrap());
        // A delta without its map, cut, and longer than the base.
        let map = std::fs::read(&presence).unwrap();
        std::fs::remove_file(&presence).unwrap();
        assert!(open_as(base.path(), mode()).is_err());
        std::fs::write(&presence, &map).unwrap();
        for len in [512, 8192] {
            cut(&delta, len);
            assert!(open_as(base.path(), mode()).is_err(), "{len}");
        }
        // An empty delta is new only if its map is empty.
        cut(&delta, 0);
        drop(open_as(base.path(), mode()).unwrap());
        let mut map = std::fs::read(&presence).unwrap();
        map[4096] = 1;
        std::fs::write(&presence, &map).unwrap();
        drop(open_as(base.path(), mode()).unwrap());
        cut(&delta, 0);
        let error = open_as(base.path(), mode()).unwrap_err();
        assert!(matches!(error, BlockError::Presence { .. }), "{error}");
    }

    #[test]
    fn a_lock_that_is_released_while_waiting_is_acquired() {
        let image = image();
        let first = open_as(image.path(), DiskMode::ReadWrite).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| open_as(image.path(), DiskMode::ReadWrite));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
