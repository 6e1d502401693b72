//! What the monitors boot.

use std::path::PathBuf;

/// What is booted.
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
