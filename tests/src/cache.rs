//! What is expensive to make and kept between runs.
//!
//! `${XDG_CACHE_HOME:-~/.cache}/microagent-tests/<key>/`, where the key names what the entry is
//! made from. An entry is made once, in a directory beside it that is renamed into place, under a
//! lock; so several test processes can ask for it at once, and a half-made one is never seen.
//! Deleting any of it at any time costs time only.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::Error;

/// The directory of all entries.
pub fn root() -> Result<PathBuf, Error> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(|| "/var/tmp".into());
    let root = base.join("microagent-tests");
    fs::create_dir_all(&root).map_err(Error::file(&root))?;
    Ok(root)
}

/// The entry `key`, made by `make` in an empty directory when it is not there.
pub fn entry(key: &str, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    entry_in(&root()?, key, make)
}

/// As [`entry`], in another directory, which is made when it is missing.
pub fn entry_in(
    root: &Path,
    key: &str,
    make: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<PathBuf, Error> {
    fs::create_dir_all(root).map_err(Error::file(root))?;
    let entry = root.join(key);
    if entry.is_dir() {
        return Ok(entry);
    }
    let lock = root.join(format!("{key}.lock"));
    let lock_file = File::create(&lock).map_err(Error::file(&lock))?;
    rustix::fs::flock(&lock_file, FlockOperation::LockExclusive)
        .map_err(|error| Error::file(&lock)(error.into()))?;
    if entry.is_dir() {
        return Ok(entry);
    }
    let making = root.join(format!("{key}.making"));
    if making.exists() {
        // Left by a process that was killed; the lock says that nobody is at it.
        fs::remove_dir_all(&making).map_err(Error::file(&making))?;
    }
    fs::create_dir(&making).map_err(Error::file(&making))?;
    make(&making)?;
    fs::rename(&making, &entry).map_err(Error::file(&entry))?;
    Ok(entry)
}
