//! Boot results as text, JSON and a section of a Markdown file.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::perf::{Monitor, Perf, Times};
use crate::machine::Machine;
use crate::{Error, markdown};

/// The boots of one kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boots {
    /// A description of the kernel.
    pub kernel: String,
    /// Runs that boot, and the monitors.
    pub perf: Perf,
    /// Runs restored from a snapshot.
    pub restored: Perf,
}

/// All measurements of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The machine on which the lab ran. The deterministic clock does not depend on it.
    pub machine: Machine,
    /// The boots of each kernel.
    pub boots: Vec<Boots>,
}

impl Report {
    /// Writes everything as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        let json =
            serde_json::to_string_pretty(self).map_err(|error| Error::file(path)(error.into()))?;
        fs::write(path, json + "\n").map_err(Error::file(path))
    }

    /// Replaces the section between the markers in a Markdown file with the results.
    ///
    /// # Errors
    /// When the file cannot be read or written, or lacks a marker.
    pub fn write_markdown(&self, path: &Path, command: &str) -> Result<(), Error> {
        markdown::put(path, "boot-bench", &self.markdown(command))
    }

    /// The results as Markdown, which is also printed on a terminal.
    pub fn markdown(&self, command: &str) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "`{command}` in the lab (an AMD-V host emulated by QEMU) with its deterministic clock: a \
             millisecond is a million instructions of host and guest together.\n"
        );
        for boots in &self.boots {
            section(&mut text, boots);
        }
        text
    }
}

fn section(text: &mut String, boots: &Boots) {
    phases(text, boots, &boots.perf, "boots");
    phases(text, boots, &boots.restored, "runs from a snapshot");
    ratios(text, boots);
    comparison(text, &boots.perf);
}

/// The phases and the sums of `perf`.
fn phases(text: &mut String, boots: &Boots, perf: &Perf, what: &str) {
    let version = perf.kernel.version.as_deref().unwrap_or("unknown");
    let _ = writeln!(
        text,
        "**{}** ({version}), {} MiB, {} CPU(s), {} {what}:\n\n| phase | start, ms | duration, ms |\n|---|---|---|",
        boots.kernel, perf.resources.memory_mib, perf.resources.cpu_count, perf.iterations
    );
    for part in &perf.parts {
        let (start, millis) = (part.start_millis, part.millis.median);
        let _ = writeln!(text, "| {} | {start:.1} | {millis:.2} |", part.name);
    }
    let whole = &perf.whole;
    let mut row = |name: &str, millis: f64| {
        let _ = writeln!(text, "| **{name}** | | {millis:.1} |");
    };
    row("command to agent", whole.to_agent_millis.median);
    if let Some(millis) = &whole.to_first_output_millis {
        row("command to first output", millis.median);
    }
    row("command to exit code", whole.to_exit_code_millis.median);
    row(
        "VM teardown, after the exit code",
        whole.teardown_millis.median,
    );
    text.push('\n');
}

/// What a snapshot saves.
fn ratios(text: &mut String, boots: &Boots) {
    let millis = |perf: &Perf| perf.whole.to_exit_code_millis.median;
    let restored = millis(&boots.restored);
    let cold = restored / millis(&boots.perf);
    let _ = write!(
        text,
        "From a snapshot ÷ booted, command to exit code: {cold:.2}"
    );
    let firecracker = boots.perf.monitors.iter();
    let firecracker = firecracker.filter(|monitor| monitor.name.starts_with("Firecracker"));
    for userspace in firecracker.filter_map(|monitor| monitor.userspace.as_ref()) {
        let ratio = restored / userspace.millis.median;
        let _ = write!(
            text,
            "; ÷ Firecracker's boot of the same kernel to userspace: {ratio:.2}"
        );
    }
    text.push_str(".\n\n");
}

fn comparison(text: &mut String, perf: &Perf) {
    if perf.monitors.is_empty() {
        return;
    }
    text.push_str(
        "| monitor only | same kernel and initramfs, to userspace and reset, ms | ours ÷ this | \
         no kernel, first instruction resets, ms | ours ÷ this |\n|---|---|---|---|---|\n",
    );
    for monitor in &perf.monitors {
        let _ = writeln!(text, "| {} |", cells(monitor).join(" | "));
    }
    text.push('\n');
}

fn cells(monitor: &Monitor) -> [String; 5] {
    let millis = |times: &Option<Times>| {
        let times = times.as_ref();
        times.map_or("–".into(), |times| format!("{:.1}", times.millis.median))
    };
    let ratio = |times: &Option<Times>| {
        let ratio = times.as_ref().and_then(|times| times.ours_divided_by_this);
        ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"))
    };
    [
        monitor.name.clone(),
        millis(&monitor.userspace),
        ratio(&monitor.userspace),
        millis(&monitor.nothing),
        ratio(&monitor.nothing),
    ]
}
