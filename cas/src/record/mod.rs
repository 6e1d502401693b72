//! Records: small documents about objects, replaced atomically.

pub(crate) mod index;
pub(crate) mod known_file;
pub(crate) mod node;
pub(crate) mod root;
pub(crate) mod subject;
