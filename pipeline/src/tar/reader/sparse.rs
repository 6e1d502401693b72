//! Sparse members: their maps in the old GNU form and in PAX 1.0.

use std::io::Read;

use tar::Header;

use super::fields::unsigned;
use super::{BLOCK, MAX_SEGMENTS, TarError, TarReader};
use crate::tar::entry::{Content, Segment, display_name};

impl<R: Read> TarReader<R> {
    /// The map of an old GNU sparse member (`oldgnu` format), which may continue
    /// in blocks after the header, and the file's real size.
    pub(super) fn old_sparse_map(
        &mut self,
        header: &Header,
        at: u64,
        path: &[u8],
    ) -> Result<(Vec<u64>, u64), TarError> {
        let broken = || TarError::SparseMap {
            path: display_name(path),
        };
        let gnu = header.as_gnu().ok_or_else(broken)?;
        let real = unsigned(&gnu.realsize, at, "real size")?;
        let mut map = Vec::new();
        for run in gnu.sparse.iter().filter(|run| !run.is_empty()) {
            map.push(unsigned(&run.offset, at, "sparse offset")?);
            map.push(unsigned(&run.numbytes, at, "sparse length")?);
        }
        let mut more = gnu.is_extended();
        while more {
            if map.len() >= 2 * MAX_SEGMENTS {
                return Err(broken());
            }
            let mut block = tar::GnuExtSparseHeader::new();
            self.fill(block.as_mut_bytes())?;
            for run in block.sparse().iter().filter(|run| !run.is_empty()) {
                map.push(unsigned(&run.offset, at, "sparse offset")?);
                map.push(unsigned(&run.numbytes, at, "sparse length")?);
            }
            more = block.is_extended();
        }
        Ok((map, real))
    }

    /// The map of a PAX 1.0 sparse member: decimal lines before the content,
    /// padded to a block. `Err(None)` is a broken map.
    pub(super) fn sparse_map_in_data(&mut self, stored: u64) -> Result<Vec<u64>, Option<TarError>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut current: Option<u64> = None;
        let mut block = [0; BLOCK as usize];
        let mut taken = 0;
        loop {
            taken += BLOCK;
            if taken > stored.next_multiple_of(BLOCK) {
                return Err(None);
            }
            self.fill(&mut block).map_err(Some)?;
            for byte in block {
                match byte {
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        let value = current.unwrap_or(0).checked_mul(10);
                        current = Some(value.and_then(|v| v.checked_add(digit)).ok_or(None)?);
                    }
                    b'\n' => numbers.push(current.take().ok_or(None)?),
                    _ => return Err(None),
                }
                let Some((count, map)) = numbers.split_first() else {
                    continue;
                };
                if *count > MAX_SEGMENTS as u64 {
                    return Err(None);
                }
                // The first line counts the pairs that follow.
                if map.len() as u64 == 2 * count {
                    numbers.remove(0);
                    return Ok(numbers);
                }
            }
        }
    }
}

/// Converts a sparse map to segments of the tar; `None` if the runs are not
/// ascending, exceed the file, or do not add up to the stored size.
pub(super) fn sparse_content(map: &[u64], size: u64, offset: u64, stored: u64) -> Option<Content> {
    let mut segments = Vec::new();
    let (mut end, mut taken) = (0u64, 0u64);
    let (pairs, odd) = map.as_chunks::<2>();
    if !odd.is_empty() {
        return None;
    }
    for [logical, length] in pairs.iter().copied() {
        let run_end = logical.checked_add(length)?;
        if logical < end || run_end > size {
            return None;
        }
        end = run_end;
        if length > 0 {
            segments.push(Segment {
                logical,
                offset: offset.checked_add(taken)?,
                length,
            });
        }
        taken = taken.checked_add(length)?;
    }
    (taken == stored).then_some(Content { size, segments })
}
