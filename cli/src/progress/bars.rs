//! Bars on a terminal. A layer has one bar: for its download, then for unpacking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use microagent_pipeline::{Event, Stage};

use crate::output::Output;
use crate::printable;

/// Update interval of a spinner.
const TICK: Duration = Duration::from_millis(120);

/// Template for a known length.
const KNOWN: &str = "{prefix:>9} {msg:12} {bar:24} {bytes:>10} of {total_bytes:10} {bytes_per_sec}";
/// Template for an unknown length.
const UNKNOWN: &str = "{prefix:>9} {msg:12} {spinner} {bytes:>10} {bytes_per_sec:>12} {elapsed}";

#[derive(Debug)]
pub(super) struct Bars {
    output: Output,
    all: MultiProgress,
    bars: Arc<Mutex<BySubject>>,
}

/// By the subject of the stages, such as a layer's short digest.
type BySubject = HashMap<String, Bar>;

/// The bar of one subject and its active stages; the bar shows the first of them.
#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    stages: Vec<ActiveStage>,
}

#[derive(Debug)]
struct ActiveStage {
    stage: Stage,
    total: Option<u64>,
    bytes: u64,
}

impl Bars {
    /// No bars yet. A thread animates those of unknown length. It is not that of indicatif, which
    /// starts one for each bar, and panics if it cannot; without it (process limit), bars move only
    /// with what they show.
    pub(super) fn new(output: Output) -> Bars {
        let bars = Arc::default();
        let animated = Arc::downgrade(&bars);
        let _ = thread::Builder::new()
            .name("progress".into())
            .spawn(move || animate(&animated));
        Bars {
            output,
            all: MultiProgress::new(),
            bars,
        }
    }

    pub(super) fn event(&self, event: Event) {
        let mut bars = lock(&self.bars);
        match event {
            Event::StageStarted {
                stage,
                detail,
                total_bytes,
            } => {
                let bar = bars.entry(detail).or_insert_with_key(|detail| {
                    let bar = self.all.add(ProgressBar::no_length());
                    bar.set_message(printable::line(detail).into_owned());
                    Bar {
                        bar,
                        stages: Vec::new(),
                    }
                });
                bar.begin(ActiveStage {
                    stage,
                    total: total_bytes,
                    bytes: 0,
                });
            }
            Event::Advanced {
                stage,
                detail,
                bytes,
            } => {
                if let Some(bar) = bars.get_mut(&detail) {
                    bar.advance(stage, bytes);
                }
            }
            Event::StageDone { stage, detail } => {
                if let Some(bar) = bars.get_mut(&detail)
                    && bar.end(stage)
                {
                    bars.remove(&detail);
                }
            }
            Event::Notice(line) => self.all.suspend(|| self.output.notice(&line)),
            _ => {}
        }
    }
}

/// Advances spinners and elapsed times until `bars` is dropped.
fn animate(bars: &Weak<Mutex<BySubject>>) {
    while let Some(bars) = bars.upgrade() {
        for bar in lock(&bars).values() {
            if bar.bar.length().is_none() {
                bar.bar.tick();
            }
        }
        drop(bars);
        thread::sleep(TICK);
    }
}

fn lock(bars: &Mutex<BySubject>) -> MutexGuard<'_, BySubject> {
    bars.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bar {
    fn begin(&mut self, showing: ActiveStage) {
        // Stages with a known total are shown first.
        match showing.total.is_some() {
            true => self.stages.insert(0, showing),
            false => self.stages.push(showing),
        }
        self.show();
    }

    fn advance(&mut self, stage: Stage, bytes: u64) {
        for (place, showing) in self.stages.iter_mut().enumerate() {
            if showing.stage == stage {
                showing.bytes += bytes;
                if place == 0 {
                    self.bar.set_position(showing.bytes);
                }
            }
        }
    }

    /// Ends a stage; returns whether it was the last one.
    fn end(&mut self, stage: Stage) -> bool {
        self.stages.retain(|showing| showing.stage != stage);
        if self.stages.is_empty() {
            self.bar.finish_and_clear();
            return true;
        }
        self.show();
        false
    }

    fn show(&self) {
        let Some(showing) = self.stages.first() else {
            return;
        };
        let template = if showing.total.is_some() {
            KNOWN
        } else {
            UNKNOWN
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.set_prefix(showing.stage.as_str());
        match showing.total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.set_position(showing.bytes);
        self.bar.reset_eta();
        // However many bars are drawn at the moment: a short stage is seen, too.
        self.bar.force_draw();
    }
}
