//! The guest that the monitors boot.

use std::path::PathBuf;

/// A guest.
#[derive(Debug, Clone)]
pub struct Guest {
    /// An ELF kernel.
    pub kernel: PathBuf,
    /// Its initramfs, if it has one.
    pub initramfs: Option<PathBuf>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Number of vCPUs.
    pub cpus: u32,
}
