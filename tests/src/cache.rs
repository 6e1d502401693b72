//! A cache of expensive artifacts between runs.
//!
//! An entry is the directory `${XDG_CACHE_HOME:-~/.cache}/microagent-tests/<key>/`; the key names
//! its inputs. An entry is created under a lock in a temporary directory, which is renamed into
//! place, so several test processes can request it at once and never see an incomplete one.
//! Entries may be deleted at any time; they are created again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::Error;

/// The directory of the cache.
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

/// Returns the entry `key`. If it does not exist, `make` creates it in an empty directory.
pub fn entry(key: &str, make: impl FnOnce(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    entry_in(&root()?, key, make)
}

/// Like [`entry`], in the directory `root`, which is created if it does not exist.
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
    let _lock = lock(root, key)?;
    if entry.is_dir() {
        return Ok(entry);
    }
    let temporary = root.join(format!("{key}.making"));
    if temporary.exists() {
        // Left by a killed process; nobody writes to it, because we hold the lock.
        fs::remove_dir_all(&temporary).map_err(Error::file(&temporary))?;
    }
    fs::create_dir(&temporary).map_err(Error::file(&temporary))?;
    make(&temporary)?;
    fs::rename(&temporary, &entry).map_err(Error::file(&entry))?;
    Ok(entry)
}

/// Calls `check` with the directory of an existing entry, in one process at a time. `check` may
/// change the content.
pub fn check(key: &str, check: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let root = root()?;
    let _lock = lock(&root, key)?;
    check(&root.join(key))
}

fn lock(root: &Path, key: &str) -> Result<File, Error> {
    let path = root.join(format!("{key}.lock"));
    let file = File::create(&path).map_err(Error::file(&path))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| Error::file(&path)(error.into()))?;
    Ok(file)
}
