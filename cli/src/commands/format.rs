//! Values as text for people.

use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;
use microagent_pipeline::Kernel;

/// A size with a binary unit.
pub fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// How long ago `then` was, in its largest unit.
pub fn ago(then: SystemTime) -> String {
    let seconds = then.elapsed().unwrap_or(Duration::ZERO).as_secs();
    let units = [(86400, "d"), (3600, "h"), (60, "min")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{} {name} ago", seconds / unit),
        None => "just now".to_owned(),
    }
}

/// A time as RFC 3339 in UTC, with seconds.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A kernel as one line.
pub fn kernel(kernel: &Kernel) -> String {
    let version = kernel.version.as_deref().unwrap_or("of unknown version");
    format!(
        "kernel {version} from {} ({})",
        kernel.source, kernel.digest
    )
}
