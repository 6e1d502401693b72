//! File system images: from a tree of files to the bytes of an ext4 file system.
//!
//! | question | module |
//! |---|---|
//! | the built-in writer | [`ext4`] |
//! | the host's e2fsprogs (`--mke2fs`) | [`mke2fs`] |

pub(crate) mod ext4;
pub(crate) mod mke2fs;
