//! `microagent kernel …`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `microagent kernel …`
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Install a kernel and make it the default
    Install(KernelInstallArgs),
    /// Build a kernel for microVMs from source and make it the default
    Build(KernelBuildArgs),
}

/// `microagent kernel build`
#[derive(Debug, Args)]
pub struct KernelBuildArgs {
    /// Kernel source: linux-*.tar.xz or a Debian source package [default: the distribution's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// Configuration options that override the built-in ones
    #[arg(long, value_name = "FRAGMENT")]
    pub config: Option<PathBuf>,
    /// Number of parallel compiler processes [default: the number of CPUs]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

/// `microagent kernel install`
#[derive(Debug, Args)]
pub struct KernelInstallArgs {
    /// Kernel file: vmlinux, bzImage, or a Debian kernel package
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Download the kernel from this URL
    #[arg(long, value_name = "URL", requires = "sha256")]
    pub url: Option<String>,
    /// Expected SHA-256 of the download
    #[arg(long, value_name = "SUM", requires = "url")]
    pub sha256: Option<String>,
}
