//! A tree of files as a sequence of entries, each followed by the content of its file.
//!
//! The first entry is the top of the tree and has an empty path. A directory precedes what is in
//! it. The content of a file is exactly as long as its entry says.
//!
//! In a session, each entry is one message, and content is data frames ([`Kind::Stdout`] from the
//! agent, [`Kind::Stdin`] to it) and holes. [`Part::End`] or [`Part::Failed`] is the last message.
//!
//! [`Kind::Stdout`]: crate::frame::Kind::Stdout
//! [`Kind::Stdin`]: crate::frame::Kind::Stdin

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Reads a tree of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadTree {
    /// The top, as a path from the root of the guest's commands.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// If the path is that of a symbolic link, read what it points to.
    pub follow: bool,
}

/// Writes a tree into the guest, as `cp` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteTree {
    /// The destination, as a path from the root of the guest's commands.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// The name of the tree in a directory that is the destination.
    #[serde(with = "crate::bytes")]
    pub name: Vec<u8>,
    /// What is in the directory goes into the destination, not the directory itself.
    pub contents: bool,
    /// Missing directories of the path are made, and directories that exist keep their attributes.
    #[serde(default, skip_serializing_if = "is_false")]
    pub provision: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A message of a tree in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Part {
    /// The next file.
    Entry(Entry),
    /// Zeros in the content of the last file.
    Hole {
        /// How many.
        length: u64,
    },
    /// The tree is complete.
    End,
    /// It cannot be completed.
    Failed(Failure),
}

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its path below the top: names separated by `/`.
    #[serde(with = "crate::bytes")]
    pub path: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// Its permissions: the lower twelve bits of the mode.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When its content was last modified.
    pub modified: Time,
    /// Its extended attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<Attribute>,
}

/// The type of a file, and what only this type has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// The length of its content in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points to.
        #[serde(with = "crate::bytes")]
        target: Vec<u8>,
    },
    /// Another name of a file that precedes it.
    HardLink {
        /// The path of that file below the top.
        #[serde(with = "crate::bytes")]
        target: Vec<u8>,
    },
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Time {
    /// Seconds since 1970, in UTC.
    pub seconds: i64,
    /// Nanoseconds of the second, below 1 000 000 000.
    pub nanos: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    /// Its full name, as in `user.mime_type`.
    #[serde(with = "crate::bytes")]
    pub name: Vec<u8>,
    /// Its value.
    #[serde(with = "crate::bytes")]
    pub value: Vec<u8>,
}
