//! Errors of preparing a boot.

use std::io;
use std::path::PathBuf;

/// Why a kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The kernel or the initramfs cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The file is not a bootable kernel.
    #[error("{} is not a bootable x86-64 Linux kernel: {why}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Kernel and initramfs do not fit into guest memory.
    #[error("{} does not fit into {memory_mib} MiB of guest memory", path.display())]
    TooLittleMemory {
        /// The file that does not fit.
        path: PathBuf,
        /// The guest's memory in MiB.
        memory_mib: u64,
    },
    /// The kernel command line is longer than Linux accepts.
    #[error("the kernel command line is too long: {length} bytes, the limit is {limit}")]
    CommandLineTooLong {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A write to guest memory failed.
    #[error("cannot write guest memory at {address:#x}")]
    Memory {
        /// The guest-physical address.
        address: u64,
    },
}

impl BootError {
    /// The remediation, if there is one. The command line boots only kernels that were checked when
    /// they were stored, and computes the memory that they take beforehand.
    pub fn remediation(&self) -> Option<String> {
        match self {
            BootError::NotAKernel { .. } => {
                Some("repair the store with: microagent cache verify --repair".into())
            }
            _ => None,
        }
    }
}
