//! `microagent cache gc`.

use std::time::Duration;

use microagent_cas::{GcOptions, NodeKey, Output};
use serde::Serialize;

use crate::args::GcArgs;
use crate::commands::{format::bytes, pipeline};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::termination::Termination;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Collected {
    dry_run: bool,
    nodes: Vec<Node>,
    images: Vec<String>,
    objects: Vec<Object>,
    /// Bytes on disk, like `kept` and `held`.
    freed: u64,
    kept: u64,
    held: u64,
    /// Number of leftovers of dead processes, and the like.
    leftovers: u64,
}

#[derive(Serialize)]
struct Node {
    op: String,
    key: NodeKey,
}

#[derive(Serialize)]
struct Object {
    object: Output,
    allocated: u64,
}

/// Removes unreferenced, old or excess data.
pub fn gc(args: &GcArgs, settings: &Settings, termination: &Termination) -> Result<u8, Failure> {
    let options = GcOptions {
        max_size: args.max_size.as_deref().map(size).transpose()?,
        unused_for: args.older_than.as_deref().map(duration).transpose()?,
        dry_run: args.dry_run,
    };
    let pipeline = pipeline::open(settings, termination)?;
    let report = pipeline.store().collect(&options)?;
    if settings.output.json {
        settings.output.document(&Collected {
            dry_run: options.dry_run,
            nodes: (report.nodes.into_iter())
                .map(|(key, op)| Node { op, key })
                .collect(),
            images: report.images,
            objects: (report.objects.into_iter())
                .map(|(object, allocated)| Object { object, allocated })
                .collect(),
            freed: report.freed,
            kept: report.kept,
            held: report.held,
            leftovers: report.leftovers,
        })?;
        return Ok(0);
    }
    let verb = if options.dry_run {
        "would free"
    } else {
        "freed"
    };
    let mut text = format!(
        "{verb} {}: {} nodes, {} objects; {} kept\n",
        bytes(report.freed),
        report.nodes.len(),
        report.objects.len(),
        bytes(report.kept)
    );
    if let Some(limit) = options.max_size
        && report.kept > limit
    {
        text.push_str(&format!(
            "{} in use or added by other tools: not removed\n",
            bytes(report.held)
        ));
    }
    settings.output.text(&text)?;
    Ok(0)
}

/// Parses a size: `20GiB`, `500 MB`, or bytes.
fn size(text: &str) -> Result<u64, Failure> {
    parse_size::parse_size(text).map_err(|_| {
        Failure::usage(format!("invalid --max-size {text:?}"))
            .remediation("use a number with a unit, such as 20GiB, 500MB or 0")
    })
}

/// Parses a duration: `30min`, `12h`, `7d`.
fn duration(text: &str) -> Result<Duration, Failure> {
    humantime::parse_duration(text).map_err(|_| {
        Failure::usage(format!("invalid --older-than {text:?}"))
            .remediation("use a number with a unit, such as 30min, 12h or 7d")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_need_units() {
        assert_eq!(size("20GiB"), Ok(20 << 30));
        assert_eq!(size("1.5 MB"), Ok(1_500_000));
        assert_eq!(size("0"), Ok(0));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86400)));
        assert_eq!(duration("1h 30min"), Ok(Duration::from_secs(5400)));
        assert_eq!(
            size("much").unwrap_err().message,
            "invalid --max-size \"much\""
        );
        assert_eq!(
            duration("7").unwrap_err().message,
            "invalid --older-than \"7\""
        );
    }
}
