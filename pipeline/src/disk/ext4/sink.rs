//! Writes the image file in as few system calls as its layout allows.
//!
//! The writer passes one block of an inode table, one block of a directory or one small file at a
//! time, and most of them are adjacent. They are combined here: one system call for each would be a
//! considerable part of the cost of an image with small files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use mkext4::RegionSink;

use super::BLOCK;

/// The maximum size of a combined write.
const PIECE: usize = 256 << 10;

/// The image file. Zeros are not written: the file is sparse and initially empty.
pub(super) struct Sink<'a> {
    image: &'a File,
    /// Data that is not yet written, and its offset.
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

    /// Writes the remaining data. Returns the first error of the file.
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
        // The padding of a file's last block: adjacent data may follow.
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
        fn the_file_contains_all_data_in_any_order(
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
    fn the_first_error_of_the_file_is_returned() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut sink = Sink::new(&full);
        (&mut sink).data(0, b"waits").unwrap();
        assert!((&mut sink).data(BLOCK, &vec![1; 2 * PIECE]).is_err());
        assert_eq!(sink.finish().unwrap_err().raw_os_error(), Some(28));
    }
}
