//! `microagent cache …`: what is kept, and what of it is still wanted.

mod archive;
mod explain;
mod gc;
mod ls;
mod purpose;
mod verify;

use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;
use microagent_pipeline::{ErrorKind, Reference};

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

/// A number of bytes for people.
fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// How long ago something was, for people: to its largest unit.
fn ago(then: SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or(Duration::ZERO).as_secs();
    let units = [(86400, "d"), (3600, "h"), (60, "min")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{} {name} ago", seconds / unit),
        None => "just now".to_owned(),
    }
}

/// A moment as JSON has it.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn not_resolved(reference: &Reference) -> Failure {
    Failure::new(
        ErrorKind::NotFound,
        format!("{reference} has not been resolved in this store"),
    )
    .way_out(format!(
        "resolve it first: microagent image resolve {reference}"
    ))
}
