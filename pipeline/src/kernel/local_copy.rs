//! Copies a local file into scratch space and verifies the copy, so that what is stored under a key
//! is what the key was computed from, even if the file is written meanwhile.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use microagent_cas::{Digest, Hasher, Scratch, Store, StoreError};

use super::error::{KernelError, KernelFailure};

/// The size of a read, in bytes.
const CHUNK: usize = 256 << 10;

/// Copies the file at `path`, which must have the digest `expected` and at most `limit` bytes.
///
/// # Errors
/// [`KernelError::Changed`] if its content is not `expected`, [`KernelError::Unreadable`], and
/// those of the store.
pub(crate) fn copy(
    store: &Store,
    path: &Path,
    expected: &Digest,
    limit: u64,
) -> Result<Scratch, KernelFailure> {
    let unreadable = |source| KernelError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(unreadable)?.take(limit);
    let scratch = store.scratch()?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut written = 0;
    loop {
        let count = file.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        let copied = scratch.file().write_all_at(&buffer[..count], written);
        copied.map_err(|error| StoreError::io("write to", scratch.path(), error))?;
        written += count as u64;
    }
    if hasher.finish() != *expected {
        return Err(KernelError::Changed {
            path: path.to_owned(),
        }
        .into());
    }
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::for_test;

    #[test]
    fn a_file_that_changed_after_it_was_hashed_is_not_copied() {
        let (dir, engine) = for_test();
        let path = dir.path().join("vmlinux");
        std::fs::write(&path, "second").unwrap();
        let copied =
            |expected: &[u8], limit| copy(engine.store(), &path, &Digest::of(expected), limit);
        let copy_of_second = copied(b"second", 6).unwrap();
        let mut bytes = [0; 7];
        assert_eq!(copy_of_second.file().read_at(&mut bytes, 0).unwrap(), 6);
        assert_eq!(&bytes[..6], b"second");
        for (expected, limit) in [(&b"first"[..], 100), (b"second", 5)] {
            assert!(matches!(
                copied(expected, limit),
                Err(KernelFailure::Kernel(KernelError::Changed { path: named })) if named == path
            ));
        }
    }
}
