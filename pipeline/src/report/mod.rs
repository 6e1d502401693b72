//! Reports on recorded nodes: what changed outside, and why an image was rebuilt.

pub(crate) mod drift;
pub(crate) mod explain;
