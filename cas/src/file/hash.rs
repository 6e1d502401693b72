//! Hashing whole files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::read::next_data;

/// The length in bytes of the buffer for reading files.
pub(crate) const BUFFER_SIZE: usize = 256 << 10;

/// Digest and size in bytes of a whole file, in a store or not; its position is irrelevant. `path`
/// appears in errors. Holes are hashed as zeros without being read.
///
/// # Errors
/// When the file cannot be read.
pub fn digest_file(file: &File, path: &Path) -> Result<(Digest, u64), StoreError> {
    let failed = |error: io::Error| StoreError::io("read", path, error);
    let size = file.metadata().map_err(failed)?.len();
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut offset = 0;
    while offset < size {
        let data = next_data(file, offset, size).map_err(failed)?;
        if data > offset {
            buffer.fill(0);
            while offset < data.min(size) {
                let part = (data.min(size) - offset).min(BUFFER_SIZE as u64);
                hasher.update(&buffer[..part as usize]);
                offset += part;
            }
            continue;
        }
        let hole = match rustix::fs::seek(file, SeekFrom::Hole(offset)) {
            Ok(hole) => hole.min(size),
            Err(Errno::INVAL) => size,
            Err(error) => return Err(failed(error.into())),
        };
        while offset < hole {
            let part = (hole - offset).min(BUFFER_SIZE as u64) as usize;
            file.read_exact_at(&mut buffer[..part], offset)
                .map_err(failed)?;
            hasher.update(&buffer[..part]);
            offset += part as u64;
        }
    }
    Ok((hasher.finish(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hash_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        let size = 3 * BUFFER_SIZE as u64 + 77;
        file.set_len(size).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"middle", 2 * BUFFER_SIZE as u64 - 3)
            .unwrap();
        let mut whole = vec![0; size as usize];
        file.read_exact_at(&mut whole, 0).unwrap();
        let hashed = digest_file(&file, Path::new("sparse")).unwrap();
        assert_eq!(hashed, (Digest::of(&whole), size));
    }

    #[test]
    fn empty_file_and_single_hole() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(
            digest_file(&file, Path::new("e")).unwrap(),
            (Digest::of(b""), 0)
        );
        file.set_len(100_000).unwrap();
        let zeros = Digest::of(&vec![0; 100_000]);
        assert_eq!(
            digest_file(&file, Path::new("h")).unwrap(),
            (zeros, 100_000)
        );
    }
}
