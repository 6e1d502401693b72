//! The engine: looks nodes up in the store, computes missing ones, reports progress.

pub(crate) mod node;
pub(crate) mod progress;
