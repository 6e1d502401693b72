//! The command-line grammar. Parsing has no side effects; values are validated by [`crate::request`].

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

/// Run OCI images as Linux microVMs
#[derive(Debug, Parser)]
#[command(name = "microagent", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// Global flags.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command in a fresh microVM made from an image
    Run(Box<RunArgs>),
    /// Build root file systems
    Rootfs {
        /// The subcommand.
        #[command(subcommand)]
        command: RootfsCommand,
    },
    /// Manage guest kernels
    Kernel {
        /// The subcommand.
        #[command(subcommand)]
        command: KernelCommand,
    },
    /// Resolve image references and detect changes
    Image {
        /// The subcommand.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Inspect, verify and clean the cache
    Cache {
        /// The subcommand.
        #[command(subcommand)]
        command: CacheCommand,
    },
    /// Measure boot performance
    Perf {
        /// The subcommand.
        #[command(subcommand)]
        command: PerfCommand,
    },
    /// Check what this host can run and what is missing
    Doctor,
    /// Print the version
    Version,
}

/// A parsed command line.
#[derive(Debug)]
pub enum Parsed {
    /// A command to execute.
    Command(Box<Cli>),
    /// Help text to print.
    Help(String),
}

/// Parses the command line.
///
/// # Errors
/// A usage failure: one line and a remediation.
pub fn parse(words: &[OsString]) -> Result<Parsed, Failure> {
    match Cli::try_parse_from(words) {
        Ok(cli) => Ok(Parsed::Command(Box::new(cli))),
        Err(error) => match error.kind() {
            clap::error::ErrorKind::DisplayHelp
            | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Ok(Parsed::Help(error.render().to_string()))
            }
            _ => Err(usage_error::usage_error(&error, words, &grammar())),
        },
    }
}

/// Whether `--json` precedes the command, for errors of a command line that cannot be parsed.
pub fn wants_json(words: &[OsString]) -> bool {
    let grammar = grammar();
    words
        .iter()
        .skip(1)
        .take_while(|word| {
            word.to_str()
                .is_none_or(|word| grammar.find_subcommand(word).is_none())
        })
        .any(|word| word == "--json")
}

/// All commands and their flags.
fn grammar() -> clap::Command {
    let mut grammar = Cli::command();
    grammar.build();
    grammar
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MANUAL: &str = include_str!("../../../docs/cli.md");

    /// The long flags of the commands below `command`, by the path of each.
    fn flags(command: &clap::Command, path: &str, found: &mut Vec<(String, BTreeSet<String>)>) {
        if !command.has_subcommands() {
            let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let own = visible.filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
            let long = own.filter_map(|arg| arg.get_long());
            found.push((
                path.to_owned(),
                long.map(|flag| format!("--{flag}")).collect(),
            ));
        }
        for subcommand in command.get_subcommands() {
            if subcommand.get_name() != "help" {
                let path = format!("{path} {}", subcommand.get_name());
                flags(subcommand, path.trim(), found);
            }
        }
    }

    /// The section of the manual about a command, or about the first word of its path.
    fn section(path: &str) -> &'static str {
        let first = path.split(' ').next().unwrap();
        let mut sections = MANUAL.split("\n## ");
        sections
            .clone()
            .find(|text| text.starts_with(&format!("{path}\n")))
            .or_else(|| sections.find(|text| text.starts_with(&format!("{first}\n"))))
            .unwrap_or_else(|| panic!("no section about {path}"))
    }

    #[test]
    fn the_manual_has_every_command_and_flag() {
        let mut found = Vec::new();
        flags(&grammar(), "", &mut found);
        assert!(found.len() > 10, "{found:?}");
        for (path, flags) in found {
            let section = section(&path);
            for flag in &flags {
                assert!(section.contains(flag), "{path} {flag} is not in the manual");
            }
            let own_section = section.starts_with(&format!("{path}\n"));
            let rows = section
                .lines()
                .filter(|line| own_section && line.starts_with("| `-"));
            for cell in rows.filter_map(|row| row.split(" | ").next()) {
                for flag in cell.split(['`', ' ']).filter(|word| word.starts_with("--")) {
                    assert!(flags.contains(flag), "{path} has no {flag}");
                }
            }
        }
    }
}
