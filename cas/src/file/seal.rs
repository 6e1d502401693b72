//! Seals: how a lookup notices, without reading it, that an object was changed after it was
//! published.
//!
//! An object gets a fixed modification time when it is published. Every write to it, through any
//! program, replaces that time with the present. So an object with the fixed time has the content
//! that was hashed, as far as the file system can tell; any other is hashed before it is used.
//! What changes below the file system, a decaying disk, is found by what reads an object completely
//! (object/verified.rs) and by [`crate::Store::verify`].

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::error::StoreError;
use crate::file::hash::BUFFER_SIZE;
use crate::file::read::{self, next_data};

/// 2000-01-01T00:00:00Z, in seconds since 1970. All file systems represent it exactly.
const SEALED: u64 = 946_684_800;

/// Marks the content as verified. Only the owner can; the permissions may be read-only.
pub(crate) fn seal(file: &File) -> io::Result<()> {
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(SEALED))
}

/// Whether the file is unchanged since it was sealed.
pub(crate) fn is_sealed(metadata: &Metadata) -> bool {
    (metadata.mtime(), metadata.mtime_nsec()) == (SEALED as i64, 0)
}

/// Whether `path` is a regular file with the content of `file`. Holes equal zeros; where both have
/// one, nothing is read.
pub(crate) fn has_content(path: &Path, file: &File) -> Result<bool, StoreError> {
    let failed = |error| StoreError::io("read", path, error);
    let Some(existing) = read::open_if_present(path)? else {
        return Ok(false);
    };
    let metadata = existing.metadata().map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if !metadata.is_file() || metadata.len() != size {
        return Ok(false);
    }
    let mut buffers = [vec![0; BUFFER_SIZE], vec![0; BUFFER_SIZE]];
    let mut offset = 0;
    loop {
        let next = [&existing, file].map(|file| next_data(file, offset, size));
        let [a, b] = next;
        offset = a.map_err(failed)?.min(b.map_err(failed)?);
        if offset >= size {
            return Ok(true);
        }
        let part = (size - offset).min(BUFFER_SIZE as u64) as usize;
        let [a, b] = &mut buffers;
        (existing.read_exact_at(&mut a[..part], offset)).map_err(failed)?;
        (file.read_exact_at(&mut b[..part], offset)).map_err(failed)?;
        if a[..part] != b[..part] {
            return Ok(false);
        }
        offset += part as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn content_is_compared_byte_by_byte_and_holes_are_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("existing");
        let size = 4 * BUFFER_SIZE as u64;
        let existing = File::create_new(&path).unwrap();
        existing.set_len(size).unwrap();
        existing.write_all_at(b"x", size / 2).unwrap();
        let same = tempfile::tempfile().unwrap();
        (&same).write_all(&vec![0; size as usize]).unwrap();
        same.write_all_at(b"x", size / 2).unwrap();
        assert!(has_content(&path, &same).unwrap());
        for (offset, bytes) in [(0, b"y"), (size / 2, b"y"), (size - 1, b"y")] {
            let kept = &mut [0; 1];
            same.read_exact_at(kept, offset).unwrap();
            same.write_all_at(bytes, offset).unwrap();
            assert!(!has_content(&path, &same).unwrap(), "{offset}");
            same.write_all_at(kept, offset).unwrap();
        }
        same.set_len(size + 1).unwrap();
        assert!(!has_content(&path, &same).unwrap());
        assert!(!has_content(&dir.path().join("absent"), &same).unwrap());
        assert!(!has_content(dir.path(), &tempfile::tempfile().unwrap()).unwrap());
    }

    #[test]
    fn a_write_breaks_the_seal() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"content", 0).unwrap();
        assert!(!is_sealed(&file.metadata().unwrap()));
        seal(&file).unwrap();
        assert!(is_sealed(&file.metadata().unwrap()));
        file.write_all_at(b"C", 0).unwrap();
        assert!(!is_sealed(&file.metadata().unwrap()));
    }
}
