//! The figures as Markdown.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::figures::Figures;
use super::measured::Measured;
use crate::Error;
use crate::statistics::Summary;

/// The name of a figure, and where it is.
type Row = (&'static str, fn(&Figures) -> f64);

/// The rows of the tables.
const ROWS: [Row; 4] = [
    ("up, Gbit/s", |figures| figures.up),
    ("down, Gbit/s", |figures| figures.down),
    ("round trip, µs", |figures| figures.trip),
    ("connections a second", |figures| figures.connections),
];

/// A comparison of our monitor and QEMU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The place and the monitors compared.
    pub title: String,
    /// What was measured.
    pub measured: Measured,
}

/// Writes the comparisons as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, comparisons: &[Comparison]) -> Result<(), Error> {
    let text = serde_json::json!(comparisons);
    fs::write(path, format!("{text:#}\n")).map_err(Error::file(path))
}

/// The comparisons as tables, headed by the command that makes them.
pub fn markdown(command: &str, comparisons: &[Comparison]) -> String {
    let mut text = format!("`{command}`\n\n");
    for comparison in comparisons {
        comparison.write(&mut text);
    }
    text
}

impl Comparison {
    // Writing to a string does not fail.
    fn write(&self, text: &mut String) {
        let boots = || self.measured.boots.iter();
        let _ = writeln!(
            text,
            "**{}**, {} round(s):\n\n\
             | what | ours | QEMU's | ours ÷ QEMU's | published port | no VM |\n\
             |---|---|---|---|---|---|",
            self.title,
            boots().len()
        );
        for (name, figure) in ROWS {
            let of = |monitor: usize| {
                Summary::of(boots().filter_map(|boots| boots.get(monitor).map(figure)))
            };
            let ratio = Summary::of(boots().filter_map(|boots| match &boots[..] {
                [ours, theirs] => Some(figure(ours) / figure(theirs)),
                _ => None,
            }));
            let ratio =
                ratio.map(|it| format!("{:.2} ({:.2} to {:.2})", it.median, it.least, it.most));
            let published = Summary::of(self.measured.commands.published.iter().map(figure));
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} |",
                short(of(0)),
                short(of(1)),
                ratio.unwrap_or_default(),
                short(published),
                short(Summary::of([figure(&self.measured.direct)])),
            );
        }
        let run =
            |value: fn(&[f64; 2]) -> f64| Summary::of(self.measured.commands.run.iter().map(value));
        if let (Some(isolated), Some(user), Some(added)) = (
            run(|[isolated, _]| *isolated),
            run(|[_, user]| *user),
            run(|[isolated, user]| user - isolated),
        ) {
            let _ = writeln!(
                text,
                "\n| `run --exec true` | ms |\n|---|---|\n| `--network isolated` | {:.1} |\n\
                 | `--network user` | {:.1} |\n| added, of the same round | {:.1} ({:.1} to {:.1}) |",
                isolated.median, user.median, added.median, added.least, added.most
            );
        }
        text.push('\n');
    }
}

/// The median with as many digits as mean something.
fn short(summary: Option<Summary>) -> String {
    match summary.map(|summary| summary.median) {
        None => String::new(),
        Some(value) if value < 100.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::commands::Commands;

    #[test]
    fn ratios_and_differences_are_of_the_same_round() {
        let figures = |up: f64| Figures {
            up,
            down: 1.0,
            trip: 250.0,
            connections: 1000.0,
        };
        let measured = Measured {
            direct: figures(20.0),
            boots: [[1.0, 2.0], [3.0, 2.0], [4.0, 4.0]]
                .map(|boots| boots.map(figures).to_vec())
                .to_vec(),
            commands: Commands {
                published: vec![figures(5.0)],
                run: vec![[1000.0, 1004.0], [2000.0, 2001.0], [500.0, 502.5]],
            },
        };
        let title = "here".into();
        let text = markdown("x", &[Comparison { title, measured }]);
        for row in [
            "**here**, 3 round(s):\n",
            "| up, Gbit/s | 3.00 | 2.00 | 1.00 (0.50 to 1.50) | 5.00 | 20.00 |\n",
            "| round trip, µs | 250 | 250 | 1.00 (1.00 to 1.00) | 250 | 250 |\n",
            "| `--network user` | 1004.0 |\n| added, of the same round | 2.5 (1.0 to 4.0) |\n",
        ] {
            assert!(text.contains(row), "{text}");
        }
    }
}
