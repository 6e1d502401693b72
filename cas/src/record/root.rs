//! Roots: named records of objects that must be kept, such as the default kernel.
//!
//! `roots/<name>.json`. Garbage collection keeps every object that a root lists. The value is
//! opaque to the store.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::file::{read, temporary};
use crate::output::Output;
use crate::store::Store;

/// The version of the root format.
pub const ROOT_FORMAT: u32 = 1;

/// The maximum size of a root in bytes.
const LIMIT: u64 = 4 << 20;

/// The content of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootRecord {
    /// [`ROOT_FORMAT`].
    pub format: u32,
    /// The blobs and sparse files to keep.
    pub blobs: Vec<Output>,
    /// The owner's data.
    pub value: serde_json::Value,
}

impl Store {
    /// Writes or replaces a root, atomically.
    ///
    /// # Errors
    /// [`StoreError::InvalidName`] unless the name consists of 1 to 100 lower-case letters, digits
    /// and dashes.
    pub fn set_root(
        &self,
        name: &str,
        blobs: Vec<Output>,
        value: serde_json::Value,
    ) -> Result<(), StoreError> {
        let path = self.root_path(name)?;
        let record = RootRecord {
            format: ROOT_FORMAT,
            blobs,
            value,
        };
        let bytes = serde_json::to_vec(&record)
            .map_err(|error| StoreError::io("encode", &path, io::Error::from(error)))?;
        temporary::replace(self.temporary(), &path, &bytes)
    }

    /// Reads a root; `None` when it does not exist.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it is invalid.
    pub fn get_root(&self, name: &str) -> Result<Option<RootRecord>, StoreError> {
        let path = self.root_path(name)?;
        let Some(bytes) = read::read_small(&path, LIMIT)? else {
            return Ok(None);
        };
        let corrupt = |why| StoreError::Corrupt {
            path: path.clone(),
            why,
        };
        let record: RootRecord = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(format!("invalid root: {error}")))?;
        if record.format != ROOT_FORMAT {
            return Err(corrupt(format!("unknown format {}", record.format)));
        }
        Ok(Some(record))
    }

    /// The file of a root, whether or not it exists.
    ///
    /// # Errors
    /// As [`Store::set_root`].
    pub fn root_file(&self, name: &str) -> Result<PathBuf, StoreError> {
        self.root_path(name)
    }

    /// Removes a root; what only it kept becomes garbage. An absent one is fine.
    ///
    /// # Errors
    /// As [`Store::set_root`], and those of the file system.
    pub fn remove_root(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root_path(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn root_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if name.is_empty() || name.len() > 100 || !name.bytes().all(plain) {
            return Err(StoreError::InvalidName {
                name: name.chars().take(100).collect(),
                what: "root",
                why: "must be 1 to 100 lower-case letters, digits and dashes",
            });
        }
        Ok(self.layout().root_record(name))
    }
}
