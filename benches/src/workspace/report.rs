//! Figures, targets, and the table of both.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::inside::Measured;
use crate::Error;
use crate::statistics::Summary;

/// The medians, and what they are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// `create` of a cached image, divided by `version`.
    pub create_by_version: f64,
    /// `start`, divided by the time of `run` to the agent's report.
    pub start_by_run: f64,
    /// `exec true`, in milliseconds.
    pub exec_millis: f64,
    /// Memory of the supervisor beyond that of the guest, in MiB.
    pub supervisor_mib: f64,
    /// Memory of the process that keeps the workspace, in MiB.
    pub shim_mib: f64,
}

/// The targets of the first four figures.
pub const TARGETS: [f64; 4] = [3.0, 1.1, 5.0, 2.5];

impl Figures {
    /// The figures of a measurement of at least one round.
    pub fn of(measured: &Measured) -> Figures {
        Figures {
            create_by_version: median(&measured.create) / median(&measured.version),
            start_by_run: median(&measured.start) / median(&measured.run_to_agent),
            exec_millis: median(&measured.exec),
            supervisor_mib: median(&measured.supervisor_kib) / 1024.0,
            shim_mib: median(&measured.shim_kib) / 1024.0,
        }
    }
}

/// Writes the measurements, by their places, with their figures as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, measured: &[(&str, Measured)]) -> Result<(), Error> {
    let report: serde_json::Map<_, _> = measured
        .iter()
        .map(|(place, measured)| {
            let figures = Figures::of(measured);
            let report = json!({ "measured": measured, "figures": figures });
            ((*place).to_owned(), report)
        })
        .collect();
    let report = serde_json::Value::Object(report);
    fs::write(path, format!("{report:#}\n")).map_err(Error::file(path))
}

fn median(values: &[f64]) -> f64 {
    Summary::of(values.iter().copied()).map_or(f64::NAN, |summary| summary.median)
}

/// The measurement as two tables, headed by the place and the clock.
pub fn markdown(heading: &str, measured: &Measured) -> String {
    let mut text = format!("**{heading}**\n\n| process | ms |\n|---|---|\n");
    for (name, values) in [
        ("`version`", &measured.version),
        ("`create`, everything cached", &measured.create),
        ("`run`, to the agent's report", &measured.run_to_agent),
        ("`start`", &measured.start),
        ("`exec NAME true`", &measured.exec),
    ] {
        let _ = writeln!(text, "| {name} | {:.1} |", median(values));
    }
    let figures = Figures::of(measured);
    let rows = [
        ("`create` ÷ `version`", figures.create_by_version),
        ("`start` ÷ `run` to the agent", figures.start_by_run),
        ("`exec NAME true`, ms", figures.exec_millis),
        (
            "the supervisor's memory without the guest's, MiB",
            figures.supervisor_mib,
        ),
    ];
    text += "\n| figure | measured | target | |\n|---|---|---|---|\n";
    for ((name, value), target) in rows.into_iter().zip(TARGETS) {
        let met = if value <= target { "met" } else { "missed" };
        let _ = writeln!(text, "| {name} | {value:.2} | {target} | {met} |");
    }
    let _ = writeln!(
        text,
        "| memory of the process that keeps the workspace, MiB | {:.2} | | |",
        figures.shim_mib
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_compared_with_their_targets() {
        let measured = Measured {
            version: vec![2.0, 2.0, 9.0],
            create: vec![7.0],
            run_to_agent: vec![80.0],
            start: vec![88.0],
            exec: vec![5.5, 4.5],
            shim_kib: vec![1024.0],
            supervisor_kib: vec![2048.0],
        };
        let text = markdown("workspace-bench", &measured);
        assert!(
            text.contains("| `create` ÷ `version` | 3.50 | 3 | missed |\n"),
            "{text}"
        );
        assert!(
            text.contains("| `start` ÷ `run` to the agent | 1.10 | 1.1 | met |\n"),
            "{text}"
        );
        assert!(
            text.contains("| `exec NAME true`, ms | 5.00 | 5 | met |\n"),
            "{text}"
        );
        assert!(text.contains("MiB | 2.00 | 2.5 | met |\n"), "{text}");
    }
}
