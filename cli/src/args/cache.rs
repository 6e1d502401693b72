//! `microagent cache …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::image::ReferenceArgs;

/// `microagent cache …`
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what is cached: size, last use, what holds it
    Ls,
    /// Say how much room the cache takes, and how much of it could go
    Du,
    /// Remove what nothing needs, and on demand what is old or too much
    Gc(GcArgs),
    /// Check every byte against its digest
    Verify(VerifyArgs),
    /// Show how an image was made, and why it was made anew
    Explain(ReferenceArgs),
    /// Write an image to an OCI archive
    Export(ExportArgs),
    /// Take the images of an OCI archive into the cache
    Import(ImportArgs),
}

/// `microagent cache gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Remove the least recently used until no more than this is left, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Remove what was not used for so long, such as 7d or 12h
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `microagent cache verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Put aside what is damaged; it is made anew when it is needed
    #[arg(long)]
    pub repair: bool,
}

/// `microagent cache export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub reference: String,
    /// The file to write; replaced when it exists
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
