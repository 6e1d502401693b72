//! The root file system of a workspace that does not run: read from its disk, never written.
//!
//! [`Blocks`] is the disk: the base in the store, under what the guest wrote. [`RootFs`] is the
//! ext4 file system on it. The guest wrote it and may have written anything: every structure is
//! checked where it is used, and all work is limited ([`ext4`]).

mod blocks;
mod budget;
mod changes;
mod content;
mod copy;
mod directory;
mod error;
mod ext4;
mod file;
mod reader;
mod resolve;

pub use blocks::Blocks;
pub use changes::{Change, Changed, changes, everything};
pub use error::RootFsError;
pub use ext4::RootFs;
pub use file::Node;
pub use reader::{Reader, Visit};
pub use resolve::{Found, Last};

#[cfg(test)]
mod tests;
