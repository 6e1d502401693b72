//! Puts a kernel, its initramfs, its command line and the tables that describe the machine into
//! guest memory.

mod error;

pub use error::BootError;
