//! `microagent kernel …`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `microagent kernel …`
#[derive(Debug, Subcommand)]
pub enum KernelCommand {
    /// Get a kernel and make it the default
    Install(KernelInstallArgs),
    /// Build a kernel made for microVMs from source and make it the default
    Build(KernelBuildArgs),
}

/// `microagent kernel build`
#[derive(Debug, Args)]
pub struct KernelBuildArgs {
    /// The kernel's source: linux-*.tar.xz or a Debian package of it [default: the distribution's]
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// Options to set after our own, so that they count
    #[arg(long, value_name = "FRAGMENT")]
    pub config: Option<PathBuf>,
    /// How many processes compile at once [default: one a processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

/// `microagent kernel install`
#[derive(Debug, Args)]
pub struct KernelInstallArgs {
    /// A kernel file: vmlinux, bzImage, or a Debian kernel package
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Where to download it
    #[arg(long, value_name = "URL", requires = "sha256")]
    pub url: Option<String>,
    /// The SHA-256 of what is downloaded
    #[arg(long, value_name = "SUM", requires = "url")]
    pub sha256: Option<String>,
}
