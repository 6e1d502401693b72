//! Why a boot could not be prepared.

use std::io;
use std::path::PathBuf;

/// Why a kernel could not be made ready to run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The kernel or the initramfs cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no kernel that can be booted.
    #[error("{} is not a bootable x86-64 Linux kernel: {why}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Kernel and initramfs do not fit.
    #[error("{} does not fit into {memory_mib} MiB of guest memory", path.display())]
    TooLittleMemory {
        /// The file that does not fit.
        path: PathBuf,
        /// The guest's memory in MiB.
        memory_mib: u64,
    },
    /// The kernel's command line is longer than kernels take.
    #[error("the kernel command line is {length} bytes long, {limit} are possible")]
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Guest memory could not be written where it should exist.
    #[error("guest memory cannot be written at {address:#x}")]
    Memory {
        /// The guest-physical address.
        address: u64,
    },
}

impl BootError {
    /// The way out, where there is one.
    pub fn remediation(&self) -> Option<String> {
        match self {
            BootError::NotAKernel { .. } => Some(
                "use a vmlinux (ELF) or bzImage, or install one with `microagent kernel install`"
                    .into(),
            ),
            BootError::TooLittleMemory { .. } => Some("give it more with `--memory MiB`".into()),
            _ => None,
        }
    }
}
