//! Files and directories, without knowledge of a store: reading, hashing, locking, and replacing
//! them in one step.

pub(crate) mod directory;
pub(crate) mod hash;
pub(crate) mod lock;
pub(crate) mod partial;
pub(crate) mod read;
pub(crate) mod temporary;
