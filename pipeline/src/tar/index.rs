//! A layer's index: its members without their content, in the tar's order.
//!
//! It is made once, when the layer is unpacked, so that building a file system
//! reads a few hundred kilobytes instead of the whole tar.
//!
//! # Bytes
//! The magic `microagent layer index\n`, then the format version as a number,
//! then records. A *number* is unsigned LEB128; a *signed* one is zigzag coded
//! first; a *text* is a number and that many bytes.
//! ```text
//! record = kind                                      number, below; 0 ends
//!          shared suffix                             number, text: the name; `shared`
//!                                                    bytes of the previous one, then suffix
//!          mode uid gid                              numbers
//!          seconds nanos                             signed, number
//!          count (name value)*                       number, texts: extended attributes
//!          1 directory, 7 fifo: nothing more
//!          2 file:      size count (logical offset length)*     numbers
//!          3 symlink, 4 hard link: target            text
//!          5 character, 6 block device: major minor  numbers
//! end    = 0 count                                   numbers: how many records there were
//! ```
//! A reader refuses any other version: the `unpack` node's version rises with it.

use std::io::{self, BufRead, Write};

use crate::tar::entry::{Attributes, Content, Device, Entry, EntryKind, Segment, Timestamp, Xattr};

const MAGIC: &[u8] = b"microagent layer index\n";
/// The version of the format.
pub const INDEX_FORMAT: u32 = 1;

// The tar reader's limits bound what is written; these are as wide or wider.
const MAX_TEXT: u64 = 2 << 20;
const MAX_XATTRS: u64 = 1 << 16;
const MAX_SEGMENTS: u64 = 1 << 17;

/// Writes an index.
#[derive(Debug)]
pub struct IndexWriter<W> {
    output: W,
    previous: Vec<u8>,
    count: u64,
}

impl<W: Write> IndexWriter<W> {
    /// Starts an index. `output` should be buffered.
    ///
    /// # Errors
    /// What `output` says.
    pub fn new(mut output: W) -> io::Result<IndexWriter<W>> {
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
    /// What `output` says.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
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

    /// Ends the index and gives the output back, flushed, with the number of members.
    ///
    /// # Errors
    /// What `output` says.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        put(&mut self.output, 0)?;
        put(&mut self.output, self.count)?;
        self.output.flush()?;
        Ok((self.output, self.count))
    }
}

/// Reads an index.
#[derive(Debug)]
pub struct IndexReader<R> {
    input: R,
    previous: Vec<u8>,
    count: u64,
    ended: bool,
}

impl<R: BufRead> IndexReader<R> {
    /// Starts reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is no index of this version.
    pub fn new(mut input: R) -> io::Result<IndexReader<R>> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC || get(&mut input)? != u64::from(INDEX_FORMAT) {
            return Err(invalid("it is no layer index of this version"));
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
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let input = &mut self.input;
        let kind = get(input)?;
        if kind == 0 {
            self.ended = true;
            return match get(input)? == self.count {
                true => Ok(None),
                false => Err(invalid("it has another number of members than it says")),
            };
        }
        self.count += 1;
        let shared = get(input)?;
        let mut path = usize::try_from(shared)
            .ok()
            .and_then(|shared| self.previous.get(..shared))
            .ok_or_else(|| invalid("a name shares more than there is"))?
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

fn put(output: &mut impl Write, mut number: u64) -> io::Result<()> {
    let mut bytes = [0u8; 10];
    let mut length = 0;
    for byte in &mut bytes {
        length += 1;
        *byte = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            break;
        }
        *byte |= 0x80;
    }
    output.write_all(&bytes[..length])
}

fn put_text(output: &mut impl Write, text: &[u8]) -> io::Result<()> {
    put(output, text.len() as u64)?;
    output.write_all(text)
}

fn get(input: &mut impl BufRead) -> io::Result<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        let bits = u64::from(byte[0] & 0x7f);
        number |= bits << shift;
        if byte[0] & 0x80 == 0 {
            // The tenth byte has room for a single bit.
            return match shift == 63 && bits > 1 {
                true => Err(invalid("a number is too long")),
                false => Ok(number),
            };
        }
    }
    Err(invalid("a number is too long"))
}

fn get_u32(input: &mut impl BufRead) -> io::Result<u32> {
    u32::try_from(get(input)?).map_err(|_| invalid("a number is out of range"))
}

fn get_text(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let length = get(input)?;
    if length > MAX_TEXT {
        return Err(invalid("a text is too long"));
    }
    let mut text = vec![0; length as usize];
    input.read_exact(&mut text)?;
    Ok(text)
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 0..longest)
    }

    fn any_content() -> impl Strategy<Value = Content> {
        vec((0u64..9, 1u64..9, any::<u32>()), 0..4).prop_map(|runs| {
            let mut size = 0;
            let mut segments = Vec::new();
            for (hole, length, offset) in runs {
                segments.push(Segment {
                    logical: size + hole,
                    offset: u64::from(offset),
                    length,
                });
                size += hole + length;
            }
            Content { size, segments }
        })
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let device =
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device { major, minor });
        let kind = prop_oneof![
            Just(EntryKind::Directory),
            Just(EntryKind::Fifo),
            any_content().prop_map(EntryKind::File),
            bytes(300).prop_map(|target| EntryKind::Symlink { target }),
            bytes(300).prop_map(|target| EntryKind::Hardlink { target }),
            device.clone().prop_map(EntryKind::CharDevice),
            device.prop_map(EntryKind::BlockDevice),
        ];
        let attributes = (
            0u16..=0o7777,
            any::<(u32, u32, i64)>(),
            0u32..1_000_000_000,
            vec((bytes(20), bytes(20)), 0..3),
        );
        (bytes(40), kind, attributes).prop_map(
            |(path, kind, (mode, (uid, gid, seconds), nanos, xattrs))| Entry {
                path,
                kind,
                attributes: Attributes {
                    mode,
                    uid,
                    gid,
                    mtime: Timestamp { seconds, nanos },
                    xattrs: xattrs
                        .into_iter()
                        .map(|(name, value)| Xattr { name, value })
                        .collect(),
                },
            },
        )
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        let mut writer = IndexWriter::new(Vec::new()).unwrap();
        entries.iter().for_each(|entry| writer.add(entry).unwrap());
        writer.finish().unwrap().0
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<Entry>> {
        let mut reader = IndexReader::new(bytes)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    proptest! {
        #[test]
        fn an_index_comes_back_as_written(entries in vec(any_entry(), 0..8)) {
            prop_assert_eq!(read(&written(&entries)).unwrap(), entries);
        }

        #[test]
        fn a_damaged_index_is_read_or_refused_without_a_panic(
            entries in vec(any_entry(), 0..4),
            flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(&entries);
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let _ = read(&bytes);
        }
    }

    #[test]
    fn the_bytes_of_a_record_are_pinned() {
        let entry = Entry {
            path: b"etc/".to_vec(),
            kind: EntryKind::File(Content::dense(300, 512)),
            attributes: Attributes {
                mode: 0o644,
                uid: 1,
                gid: 2,
                mtime: Timestamp {
                    seconds: -1,
                    nanos: 5,
                },
                xattrs: vec![Xattr {
                    name: b"user.a".to_vec(),
                    value: b"v".to_vec(),
                }],
            },
        };
        let mut expected = b"microagent layer index\n\x01".to_vec();
        expected.extend(b"\x02\x00\x04etc/\xa4\x03\x01\x02\x01\x05\x01\x06user.a\x01v");
        expected.extend(b"\xac\x02\x01\x00\x80\x04\xac\x02");
        expected.extend(b"\x00\x01");
        assert_eq!(written(&[entry]), expected);
    }
}
