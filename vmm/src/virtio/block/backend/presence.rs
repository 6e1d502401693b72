//! Which blocks a delta holds.
//!
//! In memory a bitmap, so that a read needs no system call (32 KiB for 1 GiB of disk). For a delta
//! that outlives its VM the bitmap is also in a file, and survives a crash of the host at any
//! moment without a journal:
//!
//! - bits are only ever set, and only after their blocks are durable in the delta
//!   ([`Presence::store`] must follow a sync of the delta), so any subset of the bits that were
//!   being written is a correct state: that of before some of the writes that were not flushed;
//! - the header is written once, before the first bit.
//!
//! ```text
//! offset    0: "MADELTA1"                    8 bytes
//!           8: length of the disk, bytes     u64, little-endian
//!          16: block size, bytes             u64, little-endian
//!        4096: the bitmap: bit n % 64 of little-endian word n / 64 is block n
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The block size of the delta, in bytes: that of the file systems on these disks.
pub const BLOCK: u64 = 4096;

const MAGIC: [u8; 8] = *b"MADELTA1";
const HEADER: usize = 24;
/// Offset of the bitmap in the file, in bytes.
const BITMAP: u64 = 4096;

/// The unit in which changed words are written, in words: one page of the file.
const PAGE: usize = 512;

/// Why the file of a presence map cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The file cannot be read or initialized.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not a presence map, or shorter than its header says.
    #[error("it is not a presence map, or it is damaged")]
    Damaged,
    /// It does not belong to the delta beside it.
    #[error("it does not belong to the delta beside it")]
    Other,
    /// It belongs to a disk of another size.
    #[error("it belongs to a disk of {found} bytes, not of {expected}")]
    Size {
        /// The length of its disk, in bytes.
        found: u64,
        /// The length of the base, in bytes.
        expected: u64,
    },
}

/// The blocks that a delta holds.
pub struct Presence {
    words: Vec<u64>,
    file: Option<Kept>,
}

/// The file of a presence map.
struct Kept {
    file: File,
    /// The pages that have changed since the last [`Presence::store`].
    changed: Vec<bool>,
}

impl Presence {
    /// An empty map that is not kept, for a disk of `len` bytes.
    pub fn volatile(len: u64) -> Presence {
        Presence {
            words: vec![0; words(len)],
            file: None,
        }
    }

    /// The map in `file`, for a disk of `len` bytes. An empty file becomes an empty map; the caller
    /// makes its directory entry durable.
    ///
    /// # Errors
    /// [`PresenceError`].
    pub fn open(file: File, len: u64) -> Result<Presence, PresenceError> {
        if file.metadata()?.len() == 0 {
            file.set_len(file_len(len))?;
        }
        let (words, has_header) = parse(&file, len)?;
        if !has_header {
            file.sync_all()?;
            file.write_all_at(&header(len), 0)?;
            file.sync_all()?;
        }
        let changed = vec![false; words.len().div_ceil(PAGE)];
        Ok(Presence {
            words,
            file: Some(Kept { file, changed }),
        })
    }

    /// The map in `file`, for a disk of `len` bytes, only to look at: nothing is written. An empty
    /// file is an empty map.
    ///
    /// # Errors
    /// [`PresenceError`].
    pub fn read(file: &File, len: u64) -> Result<Presence, PresenceError> {
        if file.metadata()?.len() == 0 {
            return Ok(Presence::volatile(len));
        }
        let (words, _) = parse(file, len)?;
        Ok(Presence { words, file: None })
    }

    /// Whether the map outlives the VM.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the delta holds no block.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether the delta holds a block.
    pub fn get(&self, block: u64) -> bool {
        self.words
            .get((block / 64) as usize)
            .is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Records that the delta holds a block.
    pub fn set(&mut self, block: u64) {
        let index = (block / 64) as usize;
        let Some(word) = self.words.get_mut(index) else {
            return;
        };
        let bit = 1 << (block % 64);
        if *word & bit == 0 {
            *word |= bit;
            if let Some(kept) = &mut self.file {
                kept.changed[index / PAGE] = true;
            }
        }
    }

    /// Whether `start` is held, and where the run of blocks in the same state ends, at most `end`.
    pub fn run(&self, start: u64, end: u64) -> (bool, u64) {
        let held = self.get(start);
        let run_end = (start + 1..end)
            .find(|&block| self.get(block) != held)
            .unwrap_or(end);
        (held, run_end)
    }

    /// Makes the map durable. All blocks that it records must be durable already.
    ///
    /// # Errors
    /// Those of the host's file system. What could not be written is written by the next call.
    pub fn store(&mut self) -> io::Result<()> {
        let Some(kept) = &mut self.file else {
            return Ok(());
        };
        let pages: Vec<usize> = (0..kept.changed.len())
            .filter(|&page| kept.changed[page])
            .collect();
        if pages.is_empty() {
            return Ok(());
        }
        for &page in &pages {
            let words = self.words.chunks(PAGE).nth(page).unwrap_or_default();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let offset = BITMAP + (page * PAGE * 8) as u64;
            kept.file.write_all_at(&bytes, offset)?;
        }
        kept.file.sync_data()?;
        for page in pages {
            kept.changed[page] = false;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        write!(f, "Presence({held} held)")
    }
}

/// The words of a map that is not empty, and whether it has its header: without, it was interrupted
/// while it was created, and records nothing.
fn parse(file: &File, len: u64) -> Result<(Vec<u64>, bool), PresenceError> {
    let found = file.metadata()?.len();
    if found < HEADER as u64 {
        return Err(PresenceError::Damaged);
    }
    let mut start = [0; HEADER];
    file.read_exact_at(&mut start, 0)?;
    let expected = header(len);
    let is_new = start == [0; HEADER];
    if is_new {
        // Checked below.
    } else if start[..8] != expected[..8] || start[16..] != expected[16..] {
        return Err(PresenceError::Damaged);
    } else if start != expected {
        let found = start[8..16].iter().rev();
        let found = found.fold(0, |value, &byte| value << 8 | u64::from(byte));
        return Err(PresenceError::Size {
            found,
            expected: len,
        });
    }
    if found != file_len(len) {
        return Err(PresenceError::Damaged);
    }
    let mut bytes = vec![0; words(len) * 8];
    file.read_exact_at(&mut bytes, BITMAP)?;
    if is_new && bytes.iter().any(|&byte| byte != 0) {
        return Err(PresenceError::Damaged);
    }
    let (words, []) = bytes.as_chunks::<8>() else {
        return Err(PresenceError::Damaged);
    };
    let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    Ok((words, !is_new))
}

/// The length of the file of a map for a disk of `len` bytes.
fn file_len(len: u64) -> u64 {
    BITMAP + words(len) as u64 * 8
}

/// The number of words for a disk of `len` bytes.
fn words(len: u64) -> usize {
    len.div_ceil(BLOCK).div_ceil(64) as usize
}

fn header(len: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&len.to_le_bytes());
    header[16..].copy_from_slice(&BLOCK.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 000 blocks: two pages of the bitmap.
    const LEN: u64 = 40_000 * BLOCK;

    fn reopened(file: &File, len: u64) -> Result<Presence, PresenceError> {
        Presence::open(file.try_clone().unwrap(), len)
    }

    #[test]
    fn what_was_stored_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        let mut map = reopened(&file, LEN).unwrap();
        map.set(7);
        map.set(39_999);
        // Beyond the disk: ignored.
        map.set(50_000);
        map.store().unwrap();
        map.set(8);
        let held = |map: &Presence| {
            (0..50_001)
                .filter(|&block| map.get(block))
                .collect::<Vec<_>>()
        };
        assert_eq!(held(&reopened(&file, LEN).unwrap()), [7, 39_999]);
        assert_eq!(held(&Presence::read(&file, LEN).unwrap()), [7, 39_999]);
        map.store().unwrap();
        assert_eq!(held(&reopened(&file, LEN).unwrap()), [7, 8, 39_999]);
    }

    #[test]
    fn only_changed_pages_are_written() {
        let file = tempfile::tempfile().unwrap();
        let mut map = reopened(&file, LEN).unwrap();
        map.set(1);
        map.store().unwrap();
        // Written behind its back: a store of the first page would replace it.
        file.write_all_at(&[0xff], BITMAP).unwrap();
        map.set(1);
        map.set(32_768);
        map.store().unwrap();
        let read = reopened(&file, LEN).unwrap();
        assert!(read.get(0) && read.get(1) && read.get(32_768));
    }

    #[test]
    fn looking_at_a_map_changes_nothing() {
        let empty = tempfile::tempfile().unwrap();
        assert!(Presence::read(&empty, LEN).unwrap().is_empty());
        assert_eq!(empty.metadata().unwrap().len(), 0);
        let interrupted = tempfile::tempfile().unwrap();
        interrupted.set_len(file_len(LEN)).unwrap();
        assert!(Presence::read(&interrupted, LEN).unwrap().is_empty());
        let mut start = [7; HEADER];
        interrupted.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, [0; HEADER]);
        interrupted.write_all_at(&[1], BITMAP).unwrap();
        let damaged = Presence::read(&interrupted, LEN);
        assert!(matches!(damaged, Err(PresenceError::Damaged)));
    }

    #[test]
    fn foreign_cut_and_other_files_are_refused() {
        let fresh = || {
            let file = tempfile::tempfile().unwrap();
            reopened(&file, LEN).unwrap();
            file
        };
        let error = reopened(&fresh(), LEN + BLOCK).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "it belongs to a disk of {LEN} bytes, not of {}",
                LEN + BLOCK
            )
        );
        for cut in [1, HEADER as u64, BITMAP, BITMAP + 8] {
            let file = fresh();
            file.set_len(cut).unwrap();
            let error = reopened(&file, LEN).unwrap_err();
            assert!(matches!(error, PresenceError::Damaged), "{cut}: {error}");
        }
        let file = fresh();
        file.write_all_at(&[0; HEADER], 0).unwrap();
        let mut map = reopened(&file, LEN).unwrap();
        map.set(1);
        map.store().unwrap();
        file.write_all_at(&[0; HEADER], 0).unwrap();
        assert!(matches!(reopened(&file, LEN), Err(PresenceError::Damaged)));
        for at in [0, 16] {
            let file = fresh();
            file.write_all_at(b"x", at).unwrap();
            let error = reopened(&file, LEN).unwrap_err();
            assert!(matches!(error, PresenceError::Damaged), "{at}: {error}");
        }
    }
}
