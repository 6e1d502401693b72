//! The file with the state of a VM: everything but its memory.
//!
//! ```text
//!  header    magic, format, number of sections, length, checksum      [`header`]
//!  section   kind, version, index, length, payload                    [`Writer`], [`StateFile`]
//!  …
//! ```
//!
//! The header is checked before anything else is read. A payload is what its writer made of it, of the
//! exact version that its reader knows; a reader takes each section once, and refuses a file with
//! others. All numbers are little-endian. A file is as untrusted as one from a stranger: whatever it
//! contains, reading it ends with an error or with state that KVM and the devices check.

mod error;
mod header;
mod section;

pub use self::error::StateError;
#[cfg(any(test, feature = "fuzzing"))]
pub use self::section::sealed;
pub use self::section::{Kind, StateFile, Writer};

/// The length of the longest file, in bytes. A vCPU takes about 12 KB.
pub const MAX_LENGTH: usize = 16 << 20;
