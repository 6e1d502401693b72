//! `microagent image …`.

use clap::{Args, Subcommand};

/// Arguments of a command on one image.
#[derive(Debug, Args)]
pub struct ReferenceArgs {
    /// The image
    #[arg(value_name = "REF")]
    pub reference: String,
}

/// `microagent image …`
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Resolve a reference and record the result
    Resolve(ReferenceArgs),
    /// Compare the recorded state with the current one
    Drift(DriftArgs),
}

/// `microagent image drift`
#[derive(Debug, Args)]
pub struct DriftArgs {
    /// Only these images [default: everything recorded]
    #[arg(value_name = "REF")]
    pub references: Vec<String>,
}
