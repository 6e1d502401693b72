//! `microagent completions` and `man`: both made from the grammar of the command line.

use std::fs;

use clap_complete::Shell;

use crate::args::{self, CompletionShell, CompletionsArgs, ManArgs};
use crate::failure::{Failure, kind_of};
use crate::settings::Settings;

/// Prints the completions for a shell.
pub fn completions(args: &CompletionsArgs, settings: &Settings) -> Result<u8, Failure> {
    let shell = match args.shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "microagent", &mut text);
    settings.output.bytes(&text)?;
    Ok(0)
}

/// Writes the manual pages to a directory: one for each command.
pub fn man(args: &ManArgs, settings: &Settings) -> Result<u8, Failure> {
    let directory = &args.directory;
    let written = fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(args::command(), directory));
    written.map_err(|error| {
        let message = format!("cannot write to {}: {error}", directory.display());
        Failure::new(kind_of(&error), message)
    })?;
    settings
        .output
        .text(&format!("{}\n", directory.join("microagent.1").display()))?;
    Ok(0)
}
