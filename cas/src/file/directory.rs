//! Directories that other processes change concurrently: listing, removal, durability.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;

use crate::error::StoreError;

/// Calls `each` with name and metadata of the regular files in `dir`. A file that is removed
/// during the listing is skipped.
pub(crate) fn list(
    dir: &Path,
    mut each: impl FnMut(&str, &Metadata) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("list", dir, error);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("inspect", &entry.path(), error)),
        };
        let name = entry.file_name();
        if let Some(name) = Path::new(&name).to_str()
            && metadata.is_file()
        {
            each(name, &metadata)?;
        }
    }
    Ok(())
}

/// Removes a file; one that is absent is not an error.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Makes the entry for `path` in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StoreError::io("sync", parent, error))
}
