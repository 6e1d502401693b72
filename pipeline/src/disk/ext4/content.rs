//! The content of a file in whole blocks, read from the layer's tar.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use super::BLOCK;
use crate::tar::entry::Content;

/// The ranges of whole blocks that contain data, disjoint and ascending; the last
/// range ends at the end of the file if it contains the file's last block.
pub(super) fn block_runs(content: &Content) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for segment in &content.segments {
        let begin = segment.logical / BLOCK * BLOCK;
        let end = (segment.logical + segment.length).next_multiple_of(BLOCK);
        let end = end.min(content.size);
        match runs.last_mut() {
            Some((_, last)) if begin <= *last => *last = end.max(*last),
            _ => runs.push((begin, end)),
        }
    }
    runs
}

/// Reads the bytes of a file's [`block_runs`], one after another.
pub(super) struct ContentReader<'a> {
    tar: &'a File,
    content: &'a Content,
    runs: std::vec::IntoIter<(u64, u64)>,
    /// The position in the file, and the end of the current range.
    at: u64,
    end: u64,
    /// The first segment that is not completely read.
    segment: usize,
}

impl<'a> ContentReader<'a> {
    pub(super) fn new(tar: &'a File, content: &'a Content) -> ContentReader<'a> {
        ContentReader {
            tar,
            content,
            runs: block_runs(content).into_iter(),
            at: 0,
            end: 0,
            segment: 0,
        }
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.end {
            let Some((begin, end)) = self.runs.next() else {
                return Ok(0);
            };
            (self.at, self.end) = (begin, end);
        }
        let most = |length: u64| {
            buffer
                .len()
                .min(usize::try_from(length).unwrap_or(usize::MAX))
        };
        let next = self.content.segments.get(self.segment);
        let read = match next.filter(|segment| segment.logical <= self.at) {
            Some(segment) => {
                let into = self.at - segment.logical;
                let want = most(segment.length - into);
                let read = self
                    .tar
                    .read_at(&mut buffer[..want], segment.offset + into)?;
                if into + read as u64 == segment.length {
                    self.segment += 1;
                }
                read
            }
            None => {
                let hole = next.map_or(self.end, |segment| segment.logical.min(self.end));
                let want = most(hole - self.at);
                buffer[..want].fill(0);
                want
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}
