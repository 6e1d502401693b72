//! What a person sees while the pipeline works: bars on a terminal; elsewhere one line for each
//! piece of work that took longer than a second, or for every one with `-v`.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use microagent_pipeline::{Event, Progress, Stage};

use crate::output::Output;

/// What takes longer is worth a line.
const NOTEWORTHY: Duration = Duration::from_secs(1);

/// Listens to a pipeline for a person.
#[derive(Debug)]
pub struct Reporter {
    output: Output,
    bars: Option<MultiProgress>,
    work: Mutex<HashMap<(Stage, String), Work>>,
}

#[derive(Debug)]
struct Work {
    since: Instant,
    bytes: u64,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// Reports in the form that was asked for.
    pub fn new(output: Output) -> Reporter {
        let terminal = output.talks() && !output.json && std::io::stderr().is_terminal();
        Reporter {
            output,
            bars: terminal.then(MultiProgress::new),
            work: Mutex::default(),
        }
    }

    fn bar(&self, stage: Stage, detail: &str, total: Option<u64>) -> Option<ProgressBar> {
        let bars = self.bars.as_ref()?;
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix:>10} {bar:24} {bytes:>10} of {total_bytes} {wide_msg}",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{prefix:>10} {spinner} {elapsed} {wide_msg}",
            ),
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix(stage.as_str());
        bar.set_message(detail.to_owned());
        Some(bars.add(bar))
    }

    fn line(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| self.output.notice(line)),
            None => self.output.notice(line),
        }
    }

    fn done(&self, stage: Stage, detail: &str, work: &Work) {
        if let Some(bar) = &work.bar {
            bar.finish_and_clear();
            return;
        }
        let took = work.since.elapsed();
        if took < NOTEWORTHY && self.output.verbose == 0 {
            return;
        }
        let bytes = match work.bytes {
            0 => String::new(),
            bytes => format!(" {}", HumanBytes(bytes)),
        };
        self.line(&format!(
            "{}: {detail}{bytes} in {:.1} s",
            stage.as_str(),
            took.as_secs_f64()
        ));
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event) {
        if !self.output.talks() {
            return;
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::StageStarted {
                stage,
                detail,
                total_bytes,
            } => {
                let started = Work {
                    since: Instant::now(),
                    bytes: 0,
                    bar: self.bar(stage, &detail, total_bytes),
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
                    if let Some(bar) = &work.bar {
                        bar.inc(bytes);
                    }
                }
            }
            Event::StageDone { stage, detail } => {
                let key = (stage, detail);
                if let Some(work) = work.remove(&key) {
                    self.done(stage, &key.1, &work);
                }
            }
            Event::Notice(line) => self.line(&line),
            _ => {}
        }
    }
}
