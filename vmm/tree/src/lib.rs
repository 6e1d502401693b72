//! Trees of files as streams of [`Entry`]s.
//!
//! - [`read`] reads a tree below an open directory;
//! - [`Writer`] writes one below an open directory;
//! - [`Delivery`] writes one to a path, as `cp` does.
//!
//! Both are used on the host and in the guest. Neither follows a symbolic link of the tree: a
//! [`Writer`] creates files only below its directory, whatever the entries say.

mod deliver;
mod directory;
mod error;
mod path;
mod read;
mod send;
mod sink;
mod write;

pub use deliver::{Delivery, Options};
pub use error::TreeError;
pub use path::{MAX_APPARENT, MAX_DEPTH, MAX_FILES, Shown, check_path};
pub use read::{Source, read};
pub use send::{Overrides, send};
pub use sink::Sink;
pub use write::{Policy, Skipped, Writer};

pub use microagent_proto::tree::{Attribute, Entry, Kind, Time};
