//! A layer's index: its members without their content, in the tar's order.
//!
//! It is written once, when the layer is unpacked, so that building a file
//! system reads a few hundred kilobytes instead of the whole tar.
//!
//! # Bytes
//! The magic `microagent layer index\n`, the format version as a number, then
//! records. A *number* is unsigned LEB128; a *signed* number is zigzag-coded
//! first; a *text* is a number followed by that many bytes.
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
//! A reader rejects any other version, which is part of the `unpack` node's version.

mod number;
mod reader;
mod writer;

pub(crate) use reader::IndexReader;
pub(crate) use writer::IndexWriter;

const MAGIC: &[u8] = b"microagent layer index\n";
/// The version of the format.
pub(crate) const INDEX_FORMAT: u32 = 1;

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::tar::entry::{
        Attributes, Content, Device, Entry, EntryKind, Segment, Timestamp, Xattr,
    };

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
        fn an_index_is_read_as_written(entries in vec(any_entry(), 0..8)) {
            prop_assert_eq!(read(&written(&entries)).unwrap(), entries);
        }

        #[test]
        fn a_damaged_index_does_not_panic(
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
