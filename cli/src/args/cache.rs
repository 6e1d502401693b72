//! `microagent cache …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::image::ReferenceArgs;

/// `microagent cache …`
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List images and nodes: size, last use, purpose, and what holds them
    Ls,
    /// Show disk usage, and how much is reclaimable
    Du,
    /// Remove unreferenced data, and with flags old data or data over a size limit
    Gc(GcArgs),
    /// Check every object against its digest
    Verify(VerifyArgs),
    /// Show how an image was built, and why it was rebuilt
    Explain(ReferenceArgs),
    /// Write an image to an OCI archive
    Export(ExportArgs),
    /// Import the images of an OCI archive into the cache
    Import(ImportArgs),
}

/// `microagent cache gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Remove the least recently used data until at most this much is left, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Remove data not used for this long, such as 7d or 12h
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<String>,
    /// Print what would be removed, without removing it
    #[arg(long)]
    pub dry_run: bool,
}

/// `microagent cache verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Quarantine damaged files; their content is fetched or rebuilt on demand
    #[arg(long)]
    pub repair: bool,
}

/// `microagent cache export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub reference: String,
    /// Output file, replaced if it exists; or a pipe or device
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// `microagent cache import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The OCI archive
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}
