//! Removal of leftovers of dead processes in `tmp/`, `locks/` and `leases/`.

use std::fs;

use crate::error::StoreError;
use crate::file::lock;
use crate::layout::NODE_LOCK_PREFIX;
use crate::store::Store;

/// What a [`Store::sweep`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepReport {
    /// Files and directories in `tmp/`.
    pub temporaries: u64,
    /// Node locks without a holder.
    pub locks: u64,
}

impl Store {
    /// Removes the leftovers of dead processes. Files of running processes are locked and kept.
    ///
    /// # Errors
    /// When the directories cannot be read or an entry cannot be removed.
    pub fn sweep(&self) -> Result<SweepReport, StoreError> {
        let mut swept = SweepReport {
            temporaries: self.temporary().sweep()?,
            locks: 0,
        };
        let locks = self.layout().dir("locks");
        let failed = |error| StoreError::io("list", &locks, error);
        for entry in fs::read_dir(&locks).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name
                .as_encoded_bytes()
                .starts_with(NODE_LOCK_PREFIX.as_bytes())
                && lock::remove_if_free(&entry.path())?
            {
                swept.locks += 1;
            }
        }
        self.leases().sweep()?;
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_sweep_keeps_files_in_use_and_removes_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(&dir.path().join("cas"), false).unwrap();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"in use").unwrap();
        fs::write(store.root().join("tmp/file-left"), "by a dead process").unwrap();
        assert_eq!(store.sweep().unwrap().temporaries, 1);
        let (digest, _) = writer.commit(None).unwrap();
        assert_eq!(digest, Digest::of(b"in use"));
        let left = fs::read_dir(store.root().join("tmp")).unwrap().count();
        assert_eq!(left, 0);
    }
}
