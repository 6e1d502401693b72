//! One member of a layer, exactly as its tar says it: no name is resolved,
//! nothing is dropped, and content stays where it is, named by its offset.

/// One member of a layer's tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as it stands in the tar: any bytes, perhaps with `./`, a
    /// leading or a trailing slash.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Owner, mode, time and extended attributes.
    pub attributes: Attributes,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link.
    Symlink {
        /// Where it points, as written.
        target: Vec<u8>,
    },
    /// Another name for an earlier member.
    Hardlink {
        /// That member's name, from the root of the image.
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

/// What every member carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// When it was last changed.
    pub mtime: Timestamp,
    /// Extended attributes in the tar's order, no name twice.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The name with its namespace, as in `security.capability`.
    pub name: Vec<u8>,
    /// The value, as `getxattr(2)` returns it.
    pub value: Vec<u8>,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds after that: below 1 000 000 000.
    pub nanos: u32,
}

/// The content of a regular file: where its bytes lie in the layer's tar.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// The file's length in bytes, holes included.
    pub size: u64,
    /// The parts that hold data, ascending and apart; between them are zeros.
    pub segments: Vec<Segment>,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the file.
    pub logical: u64,
    /// Where it lies in the uncompressed tar.
    pub offset: u64,
    /// How many bytes; never 0.
    pub length: u64,
}

impl Content {
    /// A file without holes whose `size` bytes lie at `offset`.
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

/// A name for messages: the bytes of a tar or of a tree, as text.
pub(crate) fn display_name(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    let cut: String = text.chars().take(LONGEST).collect();
    match text.chars().nth(LONGEST) {
        Some(_) => format!("{}…", cut.escape_debug()),
        None => cut.escape_debug().to_string(),
    }
}
