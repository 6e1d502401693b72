//! File operations that do not depend on a store: reading, hashing, locking, atomic replacement.

pub(crate) mod directory;
pub(crate) mod hash;
pub(crate) mod lock;
pub(crate) mod partial;
pub(crate) mod read;
pub(crate) mod seal;
pub(crate) mod temporary;
