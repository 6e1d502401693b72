//! The result of `perf boot`.

use serde::Serialize;

use super::monitors::Monitor;
use super::statistics::Summary;
use super::waterfall::{Part, Totals};
use crate::document::{ImageDocument, KernelDocument};
use crate::request::resources::Resources;
use crate::table::table;

/// Width of the longest bar in characters.
const WIDTH: f64 = 40.0;

/// The result of `perf boot`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// `kvm` or `qemu`.
    pub engine: &'static str,
    /// The image.
    pub image: ImageDocument,
    /// The kernel.
    pub kernel: KernelDocument,
    /// The VM's size.
    pub resources: Resources,
    /// Number of measured boots.
    pub iterations: u32,
    /// The phases of `microagent run`, in order.
    pub parts: Vec<Part>,
    /// Totals. Phases overlap, so they are less than the sum of the phases.
    #[serde(rename = "whole")]
    pub totals: Totals,
    /// The monitor alone, and other monitors with the same kernel and initramfs.
    pub monitors: Vec<Monitor>,
}

impl Report {
    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} boot{} of {} with engine {}, {} MiB, {} CPU(s)\n{}\n\n",
            self.iterations,
            if self.iterations == 1 { "" } else { "s" },
            self.image.reference,
            self.engine,
            self.resources.memory_mib,
            self.resources.cpu_count,
            self.kernel_line(),
        );
        text.push_str(&self.waterfall());
        text.push('\n');
        text.push_str(&self.sums());
        if !self.monitors.is_empty() {
            text.push('\n');
            text.push_str(&self.comparison());
        }
        text
    }

    fn kernel_line(&self) -> String {
        let version = self
            .kernel
            .version
            .as_deref()
            .unwrap_or("of unknown version");
        format!("kernel {version} ({})", self.kernel.digest)
    }

    fn waterfall(&self) -> String {
        let end = self.totals.to_exit_code_millis.median.max(0.001);
        let column = |millis: f64| (millis / end * WIDTH).round() as usize;
        let mut rows = vec![words(["PHASE", "MS", "MIN", "MAX", ""])];
        for part in &self.parts {
            let start = column(part.start_millis);
            // Even the shortest phase is visible.
            let length = column(part.start_millis + part.millis.median)
                .saturating_sub(start)
                .max(1);
            rows.push(vec![
                part.name.to_owned(),
                millis(part.millis.median),
                millis(part.millis.min),
                millis(part.millis.max),
                format!("{}{}", " ".repeat(start), "#".repeat(length)),
            ]);
        }
        table(&rows)
    }

    fn sums(&self) -> String {
        let mut rows = vec![words(["FROM START TO", "MS", "MIN", "MAX"])];
        let mut row = |name: &str, summary: &Summary| {
            rows.push(vec![
                name.to_owned(),
                millis(summary.median),
                millis(summary.min),
                millis(summary.max),
            ]);
        };
        row("agent ready", &self.totals.to_agent_millis);
        if let Some(summary) = &self.totals.to_first_output_millis {
            row("first output", summary);
        }
        row("exit code", &self.totals.to_exit_code_millis);
        row("exit code to VM exit", &self.totals.teardown_millis);
        table(&rows)
    }

    fn comparison(&self) -> String {
        let mut rows = vec![words([
            "MONITOR ALONE",
            "BOOT TO USERSPACE AND RESET",
            "OURS ÷",
            "RESET AT FIRST INSTRUCTION",
            "OURS ÷",
        ])];
        for monitor in &self.monitors {
            let mut row = vec![monitor.name.clone()];
            for times in [&monitor.userspace, &monitor.first_instruction] {
                row.push(
                    times
                        .as_ref()
                        .map_or("-".into(), |times| millis(times.millis.median)),
                );
                row.push(
                    times
                        .as_ref()
                        .and_then(|times| times.ours_divided_by_this)
                        .map_or(String::new(), |ratio| format!("{ratio:.2}")),
                );
            }
            rows.push(row);
        }
        table(&rows)
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

fn millis(millis: f64) -> String {
    format!("{millis:.2}")
}
