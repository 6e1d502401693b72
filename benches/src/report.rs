//! The results as text, JSON and a section of a Markdown file.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Error;
use crate::comparison::Round;
use crate::large::Large;
use crate::machine::Machine;
use crate::markdown;
use crate::phases::{self, Phase};
use crate::statistics::Summary;
use crate::targets::{self, Target};

/// All measurements of a run, and their evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// A description of the image.
    pub image: String,
    /// The results with their targets.
    pub targets: Vec<Target>,
    /// The phases of our cold build.
    pub ours: Vec<Phase>,
    /// The phases of the peers' build.
    pub peers: Vec<Phase>,
    /// The measurements of all rounds.
    pub rounds: Vec<Round>,
    /// The measurements of large images.
    pub large: Vec<Large>,
}

impl Report {
    /// Evaluates measurements.
    pub fn new(machine: Machine, image: &str, rounds: Vec<Round>, large: Vec<Large>) -> Report {
        Report {
            machine,
            image: image.to_owned(),
            targets: targets::table(&rounds, &large),
            ours: phases::ours(&rounds),
            peers: phases::peers(&rounds),
            rounds,
            large,
        }
    }

    /// The table as aligned text, for a terminal.
    pub fn text(&self) -> String {
        let rows: Vec<[String; 5]> = self.rows();
        let mut widths = [0; 5];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let json =
            serde_json::to_vec_pretty(self).map_err(|error| Error::file(path)(error.into()))?;
        fs::write(path, [json, b"\n".to_vec()].concat()).map_err(Error::file(path))
    }

    /// Replaces the section between the markers in a Markdown file with the results.
    ///
    /// # Errors
    /// When the file cannot be read or written, or lacks a marker.
    pub fn write_markdown(&self, path: &Path, command: &str) -> Result<(), Error> {
        markdown::put(path, "build-bench", &self.markdown(command))
    }

    fn markdown(&self, command: &str) -> String {
        let mut text = String::new();
        let machine = &self.machine;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "`{command}` on {} cores of {}, {} MiB of memory, Linux {}, {}; initial load {:.1}. \
             {} rounds of: {}.\n",
            machine.cores,
            machine.processor,
            machine.memory_mib,
            machine.kernel,
            machine.file_system,
            machine.load_before,
            self.rounds.len(),
            self.image
        );
        for (number, row) in self.rows().iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                text.push_str("|---|---|---|---|---|\n");
            }
        }
        text.push_str("\nPhases of a cold build:\n\n| build | phase | ms |\n|---|---|---|\n");
        for (build, phases) in [("microagent", &self.ours), ("the others", &self.peers)] {
            for phase in phases {
                let _ = writeln!(text, "| {build} | {} | {:.0} |", phase.name, phase.millis);
            }
        }
        let process = self.rounds.iter().flat_map(|round| &round.cached.process);
        if let Some(process) = Summary::of(process.map(|cost| cost.wall_millis)) {
            let _ = writeln!(
                text,
                "\n`microagent version`, the minimum for a process, takes {:.1} ms.",
                process.median
            );
        }
        text
    }

    /// The cells of the table, header first.
    fn rows(&self) -> Vec<[String; 5]> {
        let head = ["what", "at least", "aim", "measured", "met"].map(str::to_owned);
        let rows = self.targets.iter().map(|target| {
            let Summary {
                median,
                least,
                most,
                count,
            } = target.measured;
            let measured = match count {
                1 => target.show(median),
                _ => format!(
                    "{} ({} to {})",
                    target.show(median),
                    target.show(least),
                    target.show(most)
                ),
            };
            [
                target.what.clone(),
                format!("≤ {}", target.show(target.at_least)),
                format!("≤ {}", target.show(target.aim)),
                measured,
                target.verdict.as_str().to_owned(),
            ]
        });
        std::iter::once(head).chain(rows).collect()
    }
}
