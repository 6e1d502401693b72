//! Reads an index. Its content is not trusted: damage is an error.

use std::io::{self, BufRead};

use super::number::{get, get_text, get_u32, invalid};
use super::{INDEX_FORMAT, MAGIC};
use crate::tar::entry::{Attributes, Content, Device, Entry, EntryKind, Segment, Timestamp, Xattr};

// At least as large as the limits of the tar reader, which bound what is written.
const MAX_XATTRS: u64 = 1 << 16;
const MAX_SEGMENTS: u64 = 1 << 17;

/// Reads an index.
#[derive(Debug)]
pub(crate) struct IndexReader<R> {
    input: R,
    previous: Vec<u8>,
    count: u64,
    ended: bool,
}

impl<R: BufRead> IndexReader<R> {
    /// Starts reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is not an index of this version.
    pub(crate) fn new(mut input: R) -> io::Result<IndexReader<R>> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC || get(&mut input)? != u64::from(INDEX_FORMAT) {
            return Err(invalid("it is not a layer index of this version"));
        }
        Ok(IndexReader {
            input,
            previous: Vec::new(),
            count: 0,
            ended: false,
        })
    }

    /// The next member, or `None` after the last.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] and [`io::ErrorKind::UnexpectedEof`] for
    /// a damaged index.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let input = &mut self.input;
        let kind = get(input)?;
        if kind == 0 {
            self.ended = true;
            return match get(input)? == self.count {
                true => Ok(None),
                false => Err(invalid("the number of members is wrong")),
            };
        }
        self.count += 1;
        let shared = get(input)?;
        let mut path = usize::try_from(shared)
            .ok()
            .and_then(|shared| self.previous.get(..shared))
            .ok_or_else(|| invalid("a name shares more bytes than the previous name has"))?
            .to_vec();
        path.extend(get_text(input)?);
        self.previous.clone_from(&path);
        let attributes = get_attributes(input)?;
        let kind = match kind {
            1 => EntryKind::Directory,
            2 => EntryKind::File(get_content(input)?),
            3 => EntryKind::Symlink {
                target: get_text(input)?,
            },
            4 => EntryKind::Hardlink {
                target: get_text(input)?,
            },
            5 => EntryKind::CharDevice(get_device(input)?),
            6 => EntryKind::BlockDevice(get_device(input)?),
            7 => EntryKind::Fifo,
            _ => return Err(invalid("a member has an unknown kind")),
        };
        Ok(Some(Entry {
            path,
            kind,
            attributes,
        }))
    }
}

fn get_attributes(input: &mut impl BufRead) -> io::Result<Attributes> {
    let mode = u16::try_from(get(input)?).ok().filter(|m| *m <= 0o7777);
    let uid = get_u32(input)?;
    let gid = get_u32(input)?;
    let zigzag = get(input)?;
    let seconds = ((zigzag >> 1) as i64) ^ -((zigzag & 1) as i64);
    let nanos = get_u32(input)?;
    let count = get(input)?;
    if nanos >= 1_000_000_000 || count > MAX_XATTRS {
        return Err(invalid("a number is out of range"));
    }
    let mut xattrs = Vec::new();
    for _ in 0..count {
        xattrs.push(Xattr {
            name: get_text(input)?,
            value: get_text(input)?,
        });
    }
    Ok(Attributes {
        mode: mode.ok_or_else(|| invalid("a mode is out of range"))?,
        uid,
        gid,
        mtime: Timestamp { seconds, nanos },
        xattrs,
    })
}

fn get_content(input: &mut impl BufRead) -> io::Result<Content> {
    let size = get(input)?;
    let count = get(input)?;
    if count > MAX_SEGMENTS {
        return Err(invalid("a file has too many parts"));
    }
    let mut segments = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let segment = Segment {
            logical: get(input)?,
            offset: get(input)?,
            length: get(input)?,
        };
        let segment_end = segment.logical.checked_add(segment.length);
        let in_order = segment.length > 0 && segment.logical >= end;
        match segment_end {
            Some(after) if in_order && after <= size => end = after,
            _ => return Err(invalid("a file's parts are out of order")),
        }
        if segment.offset.checked_add(segment.length).is_none() {
            return Err(invalid("a file's part is out of range"));
        }
        segments.push(segment);
    }
    Ok(Content { size, segments })
}

fn get_device(input: &mut impl BufRead) -> io::Result<Device> {
    Ok(Device {
        major: get_u32(input)?,
        minor: get_u32(input)?,
    })
}
