//! One module per command: from validated arguments to its result.

pub mod cache;
pub mod doctor;
mod format;
pub mod image;
pub mod kernel;
pub mod manual;
pub mod perf;
mod pipeline;
pub mod profiles;
pub mod rootfs;
pub mod run;
pub mod version;
pub mod warm;
pub mod workspace;
