//! What was typed. Nothing here has an effect or decides anything beyond the grammar.

mod cache;
mod global;
mod image;
mod kernel;
mod perf;
mod rootfs;
mod run;
mod usage_error;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
pub use cache::{CacheCommand, ExportArgs, GcArgs, ImportArgs, VerifyArgs};
pub use global::{EngineArg, GlobalArgs};
pub use image::{DriftArgs, ImageCommand, ReferenceArgs};
pub use kernel::{KernelBuildArgs, KernelCommand, KernelInstallArgs};
pub use perf::{PerfBootArgs, PerfCommand};
pub use rootfs::{RootfsBuildArgs, RootfsCommand};
pub use run::RunArgs;

/// Turns an OCI image into a running Linux microVM.
#[derive(Debug, Parser)]
#[command(name = "microagent", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// Flags for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command in a fresh microVM made from an image
    Run(Box<RunArgs>),
    /// Build root file systems
    Rootfs {
        /// Which.
        #[command(subcommand)]
        command: RootfsCommand,
    },
    /// Manage guest kernels
    Kernel {
        /// Which.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// Ask what references name, and what has changed
    Image {
        /// Which.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look after what is cached
    Cache {
        /// Which.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Measure
    Perf {
        /// What.
        #[command(subcommand)]
        command: PerfCommand,
    },
    /// Say what this host can run, and what is missing
    Doctor,
    /// Print the version
    Version,
}

/// What parsing led to.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Command(Box<Cli>),
    /// Help was asked for: print this.
    Help(String),
}

/// Parses the command line.
///
/// # Errors
/// A usage failure, in one line and a way out.
pub fn parse(words: &[OsString]) -> Result<Parsed, Failure> {
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(usage_error::usage_error(&error, words)),
        },
    }
}

/// Whether `--json` was given, for errors of a command line that cannot be parsed.
pub fn wants_json(words: &[OsString]) -> bool {
    words
        .iter()
        .skip(1)
        .take_while(|word| {
            let mut commands = Cli::command();
            commands.build();
            word.to_str()
                .is_none_or(|word| commands.find_subcommand(word).is_none())
        })
        .any(|word| word == "--json")
}
