//! Objects: blobs and sparse files, named by a digest and immutable.

pub(crate) mod blob;
pub(crate) mod chunk_map;
pub(crate) mod partial;
pub(crate) mod scratch;
pub(crate) mod sparse;
pub(crate) mod verified;
