//! The image file, written in as few pieces as its layout allows.
//!
//! The writer hands over a block of an inode table, a block of a directory, a small file at a time;
//! most of them lie behind one another. They are put together here: a system call for each would be
//! a good part of what an image of small files costs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mkext4::RegionSink;

use super::BLOCK;

/// How much is put together.
const PIECE: usize = 256 << 10;

/// The image file. Zeros are left out: the file is sparse and empty before.
pub(super) struct Sink<'a> {
    image: &'a File,
    /// What is not written yet, and where it belongs.
    pending: Vec<u8>,
    offset: u64,
    failed: Option<io::Error>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(image: &'a File) -> Sink<'a> {
        Sink {
            image,
            pending: Vec::with_capacity(PIECE + BLOCK as usize),
            offset: 0,
            failed: None,
        }
    }

    /// Writes what is left. Gives the first error that the file has given.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let flushed = self.flush();
        match self.failed {
            Some(error) => Err(error),
            None => flushed,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let result = self.write(&pending, self.offset);
        self.pending = pending;
        self.pending.clear();
        result
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.image.write_all_at(bytes, offset).map_err(|error| {
            let kind = error.kind();
            self.failed.get_or_insert(error);
            kind.into()
        })
    }

    fn follows(&self, offset: u64) -> bool {
        offset == self.offset + self.pending.len() as u64
    }
}

impl RegionSink for &mut Sink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !self.follows(offset) || self.pending.len() + bytes.len() > PIECE {
            self.flush()?;
            self.offset = offset;
        }
        if bytes.len() > PIECE {
            return self.write(bytes, offset);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        // The end of a file's last block: its next neighbour may follow at once.
        if length < BLOCK && !self.pending.is_empty() && self.follows(offset) {
            let end = self.pending.len() + length as usize;
            self.pending.resize(end, 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IMAGE: u64 = 4 << 20;

    proptest! {
        #[test]
        fn the_file_holds_what_was_handed_over_wherever_it_lies(
            pieces in prop::collection::vec(
                (0u64..3 * BLOCK, 0usize..3 * PIECE / 2, 0u64..2 * BLOCK),
                0..12,
            ),
            backwards in any::<bool>(),
        ) {
            let image = tempfile::tempfile().unwrap();
            image.set_len(IMAGE).unwrap();
            let mut expected = vec![0; IMAGE as usize];
            let mut sink = Sink::new(&image);
            let mut placed = Vec::new();
            let mut at = 0;
            for (number, (gap, length, zeros)) in pieces.into_iter().enumerate() {
                let offset = at + gap;
                let end = offset + length as u64 + zeros;
                if end > IMAGE {
                    break;
                }
                placed.push((offset, vec![number as u8 + 1; length], zeros));
                at = end;
            }
            if backwards {
                placed.reverse();
            }
            for (offset, bytes, zeros) in placed {
                let begin = offset as usize;
                expected[begin..begin + bytes.len()].copy_from_slice(&bytes);
                (&mut sink).data(offset, &bytes).unwrap();
                (&mut sink).zeros(offset + bytes.len() as u64, zeros).unwrap();
            }
            sink.finish().unwrap();
            let mut found = vec![0; IMAGE as usize];
            image.read_exact_at(&mut found, 0).unwrap();
            prop_assert!(found == expected);
            prop_assert_eq!(image.metadata().unwrap().len(), IMAGE);
        }
    }

    #[test]
    fn the_first_error_of_the_file_is_the_one_that_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new(&full);
        (&mut sink).data(0, b"waits").unwrap();
        assert!((&mut sink).data(BLOCK, &vec![1; 2 * PIECE]).is_err());
        assert_eq!(sink.finish().unwrap_err().raw_os_error(), Some(28));
    }
}
