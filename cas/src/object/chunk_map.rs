//! Chunk maps: the content of a sparse file as the digests of its chunks.
//!
//! Hashing a 16 GiB file with 100 MiB of data should cost 100 MiB of hashing. So a sparse file is
//! named not by the digest of its bytes but by that of its *chunk map*, a small blob of canonical
//! JSON (canonical.rs):
//! ```text
//! {"chunkSize":4194304,"chunks":[[0,"sha256:…"],[7,"sha256:…"]],"format":1,"size":17179869184}
//! ```
//! `chunks` lists the chunks that are not all zeros, ascending: number and sha256 of the chunk's
//! bytes, the last chunk truncated at `size`. Holes and written zeros are equivalent, so the map
//! depends on the content alone. Chunks are hashed in parallel, and can be verified and transferred
//! individually.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::canonical::canonical_json;
use crate::digest::{Digest, Hasher};
use crate::error::StoreError;
use crate::file::hash::BUFFER_SIZE;
use crate::file::read::next_data;
use crate::parallel;

/// The version of the chunk map format.
pub const SPARSE_FORMAT: u32 = 1;

/// The length of a chunk in bytes.
pub const CHUNK_SIZE: u64 = 4 << 20;

/// The content of a sparse file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ChunkMap {
    /// [`SPARSE_FORMAT`].
    pub format: u32,
    /// [`CHUNK_SIZE`].
    pub chunk_size: u64,
    /// The file's length in bytes.
    pub size: u64,
    /// The chunks that are not all zeros: number and digest, in ascending order.
    pub chunks: Vec<(u64, Digest)>,
}

impl ChunkMap {
    /// Computes the map of a file, in a store or not. `path` appears in errors.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(file: &File, path: &Path) -> Result<ChunkMap, StoreError> {
        let failed = |error: io::Error| StoreError::io("read", path, error);
        let size = file.metadata().map_err(failed)?.len();
        let candidates = with_data(file, size).map_err(failed)?;
        let found: Mutex<Vec<(u64, Digest)>> = Mutex::default();
        let hash = |buffer: &mut Vec<u8>, number: &u64| -> io::Result<()> {
            let begin = number * CHUNK_SIZE;
            let end = size.min(begin + CHUNK_SIZE);
            if let Some(digest) = hash_chunk(file, begin, end, buffer)? {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((*number, digest));
            }
            Ok(())
        };
        let panicked = || io::Error::other("a hashing thread panicked");
        parallel::each(&candidates, || vec![0; BUFFER_SIZE], hash, panicked).map_err(failed)?;
        let mut chunks = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        chunks.sort_unstable();
        Ok(ChunkMap {
            format: SPARSE_FORMAT,
            chunk_size: CHUNK_SIZE,
            size,
            chunks,
        })
    }

    /// The encoded map, whose digest names the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let chunks: Vec<_> = (self.chunks.iter())
            .map(|(number, digest)| serde_json::json!([number, digest.to_string()]))
            .collect();
        canonical_json(&serde_json::json!({
            "format": self.format,
            "chunkSize": self.chunk_size,
            "size": self.size,
            "chunks": chunks,
        }))
    }

    /// Decodes a map. The error is the reason of a [`StoreError::Corrupt`].
    pub(crate) fn parse(bytes: &[u8]) -> Result<ChunkMap, String> {
        let map: ChunkMap = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if map.format != SPARSE_FORMAT || map.chunk_size != CHUNK_SIZE {
            return Err(format!("unknown chunk map format {}", map.format));
        }
        let ascending = map.chunks.is_sorted_by(|a, b| a.0 < b.0);
        let inside = |(number, _): &(u64, Digest)| *number < map.size.div_ceil(CHUNK_SIZE);
        match ascending && map.chunks.last().is_none_or(inside) {
            true => Ok(map),
            false => Err("chunks are out of order or out of range".into()),
        }
    }
}

/// The numbers of the chunks for which the file system reports data.
fn with_data(file: &File, size: u64) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut offset = 0;
    while offset < size {
        let data = next_data(file, offset, size)?;
        if data >= size {
            break;
        }
        let number = data / CHUNK_SIZE;
        numbers.push(number);
        offset = (number + 1) * CHUNK_SIZE;
    }
    Ok(numbers)
}

/// The digest of the bytes from `begin` up to `end`; `None` when they are all zeros.
fn hash_chunk(file: &File, begin: u64, end: u64, buffer: &mut [u8]) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::new();
    let mut zeros = true;
    let mut at = begin;
    while at < end {
        let part = (end - at).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..part], at)?;
        zeros = zeros && buffer[..part].iter().all(|byte| *byte == 0);
        hasher.update(&buffer[..part]);
        at += part as u64;
    }
    Ok((!zeros).then(|| hasher.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(size: u64, parts: &[(u64, &[u8])]) -> ChunkMap {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, bytes) in parts {
            file.write_all_at(bytes, *offset).unwrap();
        }
        ChunkMap::of(&file, Path::new("sparse")).unwrap()
    }

    #[test]
    fn the_encoding_is_stable() {
        let map = map_of(2 * CHUNK_SIZE + 3, &[(2 * CHUNK_SIZE, b"abc")]);
        assert_eq!(
            String::from_utf8(map.to_bytes()).unwrap(),
            format!(
                "{{\"chunkSize\":4194304,\"chunks\":[[2,\"{}\"]],\"format\":1,\"size\":8388611}}",
                Digest::of(b"abc")
            )
        );
        assert_eq!(ChunkMap::parse(&map.to_bytes()), Ok(map));
    }

    #[test]
    fn holes_and_written_zeros_are_equivalent() {
        let size = 3 * CHUNK_SIZE + 1000;
        let zeros = vec![0; CHUNK_SIZE as usize];
        let holes = map_of(size, &[(CHUNK_SIZE + 7, b"x")]);
        let written = map_of(
            size,
            &[
                (0, &zeros),
                (2 * CHUNK_SIZE, &zeros),
                (CHUNK_SIZE + 7, b"x"),
            ],
        );
        assert_eq!(holes, written);
        let mut chunk = zeros;
        chunk[7] = b'x';
        assert_eq!(holes.chunks, [(1, Digest::of(&chunk))]);
        assert_eq!(map_of(0, &[]).chunks, []);
        assert_eq!(map_of(1 << 40, &[]).chunks, []);
    }

    #[test]
    fn refuses_an_inconsistent_map() {
        let good = map_of(2 * CHUNK_SIZE, &[(0, b"a"), (CHUNK_SIZE, b"b")]);
        let mut twice = good.clone();
        twice.chunks[1].0 = 0;
        let mut beyond = good.clone();
        beyond.chunks[1].0 = 2;
        let mut newer = good.clone();
        newer.format = 2;
        for bad in [twice, beyond, newer] {
            assert!(ChunkMap::parse(&bad.to_bytes()).is_err());
        }
        assert!(ChunkMap::parse(b"{}").is_err());
    }
}
