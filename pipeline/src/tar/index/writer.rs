//! Writes an index.

use std::io::{self, Write};

use super::number::{put, put_text};
use super::{INDEX_FORMAT, MAGIC};
use crate::tar::entry::{Entry, EntryKind};

/// Writes an index.
#[derive(Debug)]
pub(crate) struct IndexWriter<W> {
    output: W,
    previous: Vec<u8>,
    count: u64,
}

impl<W: Write> IndexWriter<W> {
    /// Starts an index. `output` should be buffered.
    ///
    /// # Errors
    /// Those of `output`.
    pub(crate) fn new(mut output: W) -> io::Result<IndexWriter<W>> {
        output.write_all(MAGIC)?;
        put(&mut output, u64::from(INDEX_FORMAT))?;
        Ok(IndexWriter {
            output,
            previous: Vec::new(),
            count: 0,
        })
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Those of `output`.
    pub(crate) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        self.count += 1;
        let out = &mut self.output;
        put(out, kind_number(&entry.kind))?;
        let pairs = self.previous.iter().zip(&entry.path);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        put(out, shared as u64)?;
        put_text(out, &entry.path[shared..])?;
        self.previous.clone_from(&entry.path);
        let attributes = &entry.attributes;
        put(out, u64::from(attributes.mode))?;
        put(out, u64::from(attributes.uid))?;
        put(out, u64::from(attributes.gid))?;
        let seconds = attributes.mtime.seconds;
        put(out, ((seconds << 1) ^ (seconds >> 63)) as u64)?;
        put(out, u64::from(attributes.mtime.nanos))?;
        put(out, attributes.xattrs.len() as u64)?;
        for xattr in &attributes.xattrs {
            put_text(out, &xattr.name)?;
            put_text(out, &xattr.value)?;
        }
        match &entry.kind {
            EntryKind::Directory | EntryKind::Fifo => {}
            EntryKind::File(content) => {
                put(out, content.size)?;
                put(out, content.segments.len() as u64)?;
                for segment in &content.segments {
                    put(out, segment.logical)?;
                    put(out, segment.offset)?;
                    put(out, segment.length)?;
                }
            }
            EntryKind::Symlink { target } | EntryKind::Hardlink { target } => {
                put_text(out, target)?;
            }
            EntryKind::CharDevice(device) | EntryKind::BlockDevice(device) => {
                put(out, u64::from(device.major))?;
                put(out, u64::from(device.minor))?;
            }
        }
        Ok(())
    }

    /// Ends and flushes the index; returns the output and the number of members.
    ///
    /// # Errors
    /// Those of `output`.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        put(&mut self.output, 0)?;
        put(&mut self.output, self.count)?;
        self.output.flush()?;
        Ok((self.output, self.count))
    }
}

fn kind_number(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::Directory => 1,
        EntryKind::File(_) => 2,
        EntryKind::Symlink { .. } => 3,
        EntryKind::Hardlink { .. } => 4,
        EntryKind::CharDevice(_) => 5,
        EntryKind::BlockDevice(_) => 6,
        EntryKind::Fifo => 7,
    }
}
