//! `microagent image …`.

use clap::{Args, Subcommand};

/// A command about one image.
#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub reference: String,
}

/// `microagent image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Say which image a reference names now, and record it
    Resolve(ReferenceArgs),
    /// Compare what was recorded with what is there now
    Drift(DriftArgs),
}

/// `microagent image drift`
#[derive(Debug, Args)]
pub struct DriftArgs {
    /// Only these images; everything that is recorded by default
    #[arg(value_name = "REF")]
    pub references: Vec<String>,
}
