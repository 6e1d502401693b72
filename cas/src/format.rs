//! `store.json`: the format version of a store and the features it uses.
//!
//! Features have three tiers, as in ext4, so that an older program can decide what is safe:
//! - `compatible`: unknown features may be ignored;
//! - `readOnlyCompatible`: a reader may ignore unknown features, a writer must refuse;
//! - `incompatible`: readers and writers must refuse unknown features.
//!
//! A [`crate::Store`] always writes, so it refuses an unknown name in either of the last two. No
//! feature is defined yet.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::file::read;

/// The format version written by this crate. It rises only when no feature name can express the
/// change.
pub const FORMAT: u32 = 1;

/// The maximum size of `store.json` in bytes.
const LIMIT: u64 = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Format {
    format: u32,
    #[serde(default)]
    compatible: Vec<String>,
    #[serde(default)]
    read_only_compatible: Vec<String>,
    #[serde(default)]
    incompatible: Vec<String>,
}

impl Format {
    pub(crate) fn current() -> Format {
        Format {
            format: FORMAT,
            compatible: Vec::new(),
            read_only_compatible: Vec::new(),
            incompatible: Vec::new(),
        }
    }

    /// Reads `path`; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Format>, StoreError> {
        let Some(bytes) = read::read_small(path, LIMIT)? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StoreError::Corrupt {
                path: path.to_owned(),
                why: format!("invalid store.json: {error}"),
            })
    }

    /// Checks that this version may read and write the store.
    pub(crate) fn check(&self, path: &Path) -> Result<(), StoreError> {
        let newer = |why| {
            Err(StoreError::NewerFormat {
                path: path.to_owned(),
                why,
            })
        };
        if self.format != FORMAT {
            return newer(format!(
                "format {}, this version supports {FORMAT}",
                self.format
            ));
        }
        match self
            .incompatible
            .iter()
            .chain(&self.read_only_compatible)
            .next()
        {
            Some(feature) => newer(format!("unknown feature {feature:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let format: Format = serde_json::from_str(json).unwrap();
        format
            .check(Path::new("/s/store.json"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn unknown_features_are_refused_by_tier() {
        assert_eq!(check(r#"{"format":1}"#), Ok(()));
        assert_eq!(check(r#"{"format":1,"compatible":["x"]}"#), Ok(()));
        let refused = "/s/store.json was written by a newer version: ";
        assert_eq!(
            check(r#"{"format":1,"readOnlyCompatible":["verity"]}"#),
            Err(format!("{refused}unknown feature \"verity\""))
        );
        assert_eq!(
            check(r#"{"format":1,"incompatible":["chunks"]}"#),
            Err(format!("{refused}unknown feature \"chunks\""))
        );
        assert_eq!(
            check(r#"{"format":2}"#),
            Err(format!("{refused}format 2, this version supports 1"))
        );
    }
}
