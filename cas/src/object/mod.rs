//! Objects: blobs and sparse files, written once and named by a digest.

pub(crate) mod blob;
pub(crate) mod chunk_map;
pub(crate) mod partial;
pub(crate) mod scratch;
pub(crate) mod sparse;
