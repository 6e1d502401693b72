//! `microagent cache …`: inspects, verifies and cleans the cache.

mod archive;
mod explain;
mod gc;
mod ls;
mod purpose;
mod verify;

use crate::args::CacheCommand;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::termination::Termination;

/// Runs a subcommand of `cache`.
pub fn cache(
    command: CacheCommand,
    settings: &Settings,
    termination: &Termination,
) -> Result<u8, Failure> {
    match command {
        CacheCommand::Ls => ls::ls(settings, termination),
        CacheCommand::Du => ls::du(settings, termination),
        CacheCommand::Gc(args) => gc::gc(&args, settings, termination),
        CacheCommand::Verify(args) => verify::verify(&args, settings, termination),
        CacheCommand::Explain(args) => explain::explain(&args, settings, termination),
        CacheCommand::Export(args) => archive::export(&args, settings, termination),
        CacheCommand::Import(args) => archive::import(&args, settings, termination),
    }
}
