//! `microagent cache …`: what is kept, and what of it is still wanted.

mod archive;
mod explain;
mod gc;
mod ls;
mod purpose;
mod verify;

use crate::args::CacheCommand;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::settings::Settings;

/// Does what `cache` was asked for.
pub fn cache(command: CacheCommand, settings: &Settings, ending: &Ending) -> Result<u8, Failure> {
    match command {
        CacheCommand::Ls => ls::ls(settings, ending),
        CacheCommand::Du => ls::du(settings, ending),
        CacheCommand::Gc(args) => gc::gc(&args, settings, ending),
        CacheCommand::Verify(args) => verify::verify(&args, settings, ending),
        CacheCommand::Explain(args) => explain::explain(&args, settings, ending),
        CacheCommand::Export(args) => archive::export(&args, settings, ending),
        CacheCommand::Import(args) => archive::import(&args, settings, ending),
    }
}
