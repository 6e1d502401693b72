//! File system images: from a tree of files to the bytes of an ext4 file system.
//!
//! | question | module |
//! |---|---|
//! | the built-in writer | [`ext4`] |
//! | the host's e2fsprogs (`--mke2fs`) | [`mke2fs`] |

pub(crate) mod error;
pub(crate) mod ext4;
pub(crate) mod mke2fs;

pub(crate) const MIB: u64 = 1 << 20;

/// The free space in MiB of a writable file system whose size was not given.
pub const HEADROOM_MIB: u64 = 512;

/// The size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// The size of the content, plus this many free bytes.
    Headroom(u64),
    /// Exactly this many bytes: a multiple of 1 MiB.
    Exact(u64),
}
