//! A member of a layer, exactly as in the tar: no name is resolved, nothing is
//! dropped, and content is referred to by its offset.

/// A member of a layer's tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name in the tar: arbitrary bytes, possibly with `./`, a leading or a
    /// trailing slash.
    pub path: Vec<u8>,
    /// Its type.
    pub kind: EntryKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: Attributes,
}

/// The type of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link.
    Symlink {
        /// The target, as written.
        target: Vec<u8>,
    },
    /// Another name for an earlier member.
    Hardlink {
        /// That member's name, relative to the root of the image.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device within the driver.
    pub minor: u32,
}

/// The attributes of a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// Extended attributes in the tar's order, without duplicate names.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The name with its namespace, as in `security.capability`.
    pub name: Vec<u8>,
    /// The value, as returned by `getxattr(2)`.
    pub value: Vec<u8>,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds after that, below 1 000 000 000.
    pub nanos: u32,
}

/// The content of a regular file, as ranges of the layer's tar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// The file's size in bytes, including holes.
    pub size: u64,
    /// The data ranges, ascending and disjoint; the holes between them read as zeros.
    pub segments: Vec<Segment>,
}

/// A range of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its offset in the file.
    pub logical: u64,
    /// Its offset in the uncompressed tar.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub length: u64,
}

impl Content {
    /// A file without holes: `size` bytes at `offset`.
    pub fn dense(size: u64, offset: u64) -> Content {
        let segments = match size {
            0 => Vec::new(),
            length => vec![Segment {
                logical: 0,
                offset,
                length,
            }],
        };
        Content { size, segments }
    }
}

/// A name for messages: bytes of a tar or a tree, escaped and truncated.
pub(crate) fn display_name(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    let cut: String = text.chars().take(LONGEST).collect();
    match text.chars().nth(LONGEST) {
        Some(_) => format!("{}…", cut.escape_debug()),
        None => cut.escape_debug().to_string(),
    }
}
