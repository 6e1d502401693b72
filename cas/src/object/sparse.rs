//! Sparse files: disks and memory images, which are mostly holes.
//!
//! The chunk map (object/chunk_map.rs) is an ordinary blob in `blobs/`; the file itself is
//! `sparse/<hex of the map's digest>`.

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file::read;
use crate::object::blob::{self, Blob};
use crate::object::chunk_map::{CHUNK_SIZE, ChunkMap};
use crate::object::scratch::Scratch;
use crate::output::Output;
use crate::store::Store;

/// The maximum size of a chunk map in bytes: enough for 2 TiB without holes.
const LIMIT: u64 = 64 << 20;

impl Scratch {
    /// Makes the file durable as a sparse file; returns its name and its length in bytes. Holes
    /// are preserved.
    ///
    /// # Errors
    /// When it cannot be read back, synced or linked.
    pub fn commit_sparse(self) -> Result<(Output, u64), StoreError> {
        let map = ChunkMap::of(self.file(), self.path())?;
        let digest = self.store.put_bytes(&map.to_bytes())?;
        self.store.hold(&[Output::Sparse(digest)])?;
        let path = self.store.sparse_path(&digest);
        self.temporary.publish(&path)?;
        Ok((Output::Sparse(digest), map.size))
    }
}

impl Store {
    /// The length of an output in bytes; `None` when it or its chunk map is absent.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn output_size(&self, output: &Output) -> Result<Option<u64>, StoreError> {
        match output {
            Output::Blob(digest) => self.blob_size(digest),
            Output::Sparse(map) => match self.blob_size(map)? {
                Some(_) => read::size_of(&self.sparse_path(map)),
                None => Ok(None),
            },
        }
    }

    /// Opens an output; `None` when it is absent.
    ///
    /// # Errors
    /// See [`Store::open_blob`].
    pub fn open_output(&self, output: &Output) -> Result<Option<Blob>, StoreError> {
        blob::open(&self.output_path(output))
    }

    /// Reads the chunk map with digest `map`, which the caller holds; `None` when it is absent.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the blob is damaged or not a chunk map.
    pub fn chunk_map(&self, map: &Digest) -> Result<Option<ChunkMap>, StoreError> {
        let Some(bytes) = self.read_blob_unheld(map, LIMIT)? else {
            return Ok(None);
        };
        let parsed = ChunkMap::parse(&bytes).map_err(|why| StoreError::Corrupt {
            path: self.blob_path(map),
            why,
        })?;
        Ok(Some(parsed))
    }

    /// Verifies a sparse file against its map; returns its length in bytes, or `None` when it or
    /// its map is absent.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the file does not match its map.
    pub fn verify_sparse(&self, map: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.sparse_path(map);
        let (Some(expected), Some(blob)) = (self.chunk_map(map)?, blob::open(&path)?) else {
            return Ok(None);
        };
        let actual = ChunkMap::of(&blob.file, &path)?;
        if actual == expected {
            return Ok(Some(blob.size));
        }
        let why = match actual.size == expected.size {
            false => format!(
                "size mismatch: expected {} bytes, got {}",
                expected.size, actual.size
            ),
            true => {
                let differs = |a: &[(u64, Digest)], b: &[(u64, Digest)]| {
                    a.iter().find(|chunk| !b.contains(chunk)).map(|c| c.0)
                };
                let chunk = differs(&actual.chunks, &expected.chunks)
                    .or_else(|| differs(&expected.chunks, &actual.chunks))
                    .unwrap_or_default();
                format!("content differs from byte {}", chunk * CHUNK_SIZE)
            }
        };
        Err(StoreError::Corrupt { path, why })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_sparse_file_keeps_its_holes_and_damage_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cas")).unwrap();
        let scratch = store.scratch().unwrap();
        scratch.file().set_len(1 << 34).unwrap();
        scratch.file().write_all_at(b"data", 1 << 33).unwrap();
        let (output, size) = scratch.commit_sparse().unwrap();
        assert_eq!(size, 1 << 34);
        assert_eq!(store.output_size(&output).unwrap(), Some(1 << 34));
        let map = output.digest();
        assert_eq!(store.verify_sparse(&map).unwrap(), Some(1 << 34));

        let path = store.sparse_path(&map);
        std::fs::remove_file(&path).unwrap();
        let damaged = File::create(&path).unwrap();
        damaged.set_len(1 << 34).unwrap();
        assert_eq!(
            store.verify_sparse(&map).unwrap_err().to_string(),
            format!(
                "{} is damaged: content differs from byte 8589934592",
                path.display()
            )
        );
        std::fs::remove_file(&path).unwrap();
        assert_eq!(store.output_size(&output).unwrap(), None);
        assert_eq!(store.verify_sparse(&map).unwrap(), None);
    }
}
