//! Plain lines for logs: one when a task ends, and one when a download of known size begins, so
//! that a log shows what the process is waiting for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use microagent_pipeline::{Event, Stage};

use crate::output::Output;

/// Resolving a reference prints a line only if it takes longer than this: every run does it.
const NOTEWORTHY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Lines {
    output: Output,
    work: Mutex<HashMap<(Stage, String), Work>>,
}

#[derive(Debug)]
struct Work {
    since: Instant,
    bytes: u64,
}

impl Lines {
    pub(super) fn new(output: Output) -> Lines {
        Lines {
            output,
            work: Mutex::default(),
        }
    }

    pub(super) fn event(&self, event: Event) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StageStarted {
                stage,
                detail,
                total_bytes,
            } => {
                if let (Stage::Fetch, Some(total)) = (stage, total_bytes) {
                    let total = HumanBytes(total);
                    self.output.notice(&format!("fetch {detail}: {total}"));
                }
                let started = Work {
                    since: Instant::now(),
                    bytes: 0,
                };
                work.insert((stage, detail), started);
            }
            Event::Advanced {
                stage,
                detail,
                bytes,
            } => {
                if let Some(work) = work.get_mut(&(stage, detail)) {
                    work.bytes += bytes;
                }
            }
            Event::StageDone { stage, detail } => {
                let key = (stage, detail);
                if let Some(work) = work.remove(&key) {
                    let took = work.since.elapsed();
                    if stage != Stage::Resolve || took > NOTEWORTHY || self.output.verbose > 0 {
                        self.output.notice(&done(stage, &key.1, work.bytes, took));
                    }
                }
            }
            Event::Notice(line) => self.output.notice(&line),
            _ => {}
        }
    }
}

fn done(stage: Stage, detail: &str, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let mut line = format!("{} {detail}: done", stage.as_str());
    if bytes > 0 {
        line.push_str(&format!(", {}", HumanBytes(bytes)));
    }
    line.push_str(&format!(" in {seconds:.1} s"));
    if bytes > 0 && seconds >= 0.1 {
        let rate = HumanBytes((bytes as f64 / seconds) as u64);
        line.push_str(&format!(" ({rate}/s)"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_size_duration_and_rate() {
        let line = |bytes, millis| {
            done(
                Stage::Fetch,
                "9dd834d85ae5",
                bytes,
                Duration::from_millis(millis),
            )
        };
        assert_eq!(
            line(4 << 20, 2000),
            "fetch 9dd834d85ae5: done, 4.00 MiB in 2.0 s (2.00 MiB/s)"
        );
        assert_eq!(line(178, 3), "fetch 9dd834d85ae5: done, 178 B in 0.0 s");
        assert_eq!(line(0, 1500), "fetch 9dd834d85ae5: done in 1.5 s");
    }
}
