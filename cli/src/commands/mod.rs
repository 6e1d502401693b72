//! One module a command: from checked arguments to its result.

pub mod cache;
pub mod doctor;
pub mod image;
mod format;
pub mod kernel;
pub mod perf;
mod pipeline;
pub mod rootfs;
pub mod run;
pub mod version;
