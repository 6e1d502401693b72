//! What workspaces cost: the time of `create`, `start` and `exec`, and the memory of the processes
//! that keep one (`workspace-bench`).
//!
//! Measured in the lab with the deterministic clock, on engine `kvm`, by a copy of the program that
//! runs [`inside`] it: a millisecond is a million instructions of host and guest. And on this host by
//! its own clock.

pub mod inside;
pub mod lab;
mod memory;
pub mod native;
mod report;

pub use inside::Measured;
pub use report::{Figures, markdown, write_json};
