//! `microagent rootfs …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `microagent rootfs …`
#[derive(Debug, Subcommand)]
pub enum RootfsCommand {
    /// Build the root file system of an image
    Build(RootfsBuildArgs),
}

/// `microagent rootfs build`
#[derive(Debug, Args)]
pub struct RootfsBuildArgs {
    /// The image, pinned by digest
    #[arg(long, value_name = "REF")]
    pub image: String,
    /// Output file, replaced if it exists; or a device [default: only the cache]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Accept a mutable reference (a tag)
    #[arg(long)]
    pub allow_mutable: bool,
    /// Size of the file system in MiB
    #[arg(long, value_name = "MiB")]
    pub size_mib: Option<String>,
    /// Use this mke2fs instead of the built-in writer
    #[arg(long, value_name = "PATH")]
    pub mke2fs: Option<PathBuf>,
}
