//! Maintenance of a store: inventory, garbage collection, verification and repair.

pub(crate) mod gc;
pub(crate) mod inventory;
pub(crate) mod sweep;
pub(crate) mod verify;
