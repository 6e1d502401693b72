//! Reading files that may be absent, or have holes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::StoreError;

/// Opens a file read-only; `None` when it is absent.
pub(crate) fn open_if_present(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", path, error)),
    }
}

/// The length of a file in bytes; `None` when it is absent.
pub(crate) fn size_of(path: &Path) -> Result<Option<u64>, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("inspect", path, error)),
    }
}

/// Reads a file of at most `limit` bytes; `None` when it is absent.
///
/// # Errors
/// [`StoreError::TooLarge`] when the file is longer.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = open_if_present(path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| StoreError::io("read", path, error))?;
    if bytes.len() as u64 > limit {
        let size = fs::metadata(path).map_or(bytes.len() as u64, |metadata| metadata.len());
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            size,
            limit,
        });
    }
    Ok(Some(bytes))
}

/// The offset of the first data at or after `offset`; `size` when there is none.
pub(crate) fn next_data(file: &File, offset: u64, size: u64) -> io::Result<u64> {
    if offset >= size {
        return Ok(size);
    }
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(size),
        // The file system does not support SEEK_DATA: everything is data.
        Err(Errno::INVAL) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}
