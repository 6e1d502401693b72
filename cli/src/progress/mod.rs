//! Progress of the pipeline, on standard error:
//!
//! | | |
//! |---|---|
//! | on a terminal | a bar for each layer and each other task: stage, bytes, rate (`bars`) |
//! | otherwise | a line when a task ends, and when the download of a layer begins (`lines`) |
//! | with `--json` | one JSON event per line, including progress once a second (`events`) |
//! | with `--quiet` | nothing |

mod bars;
mod events;
mod lines;

use std::io::IsTerminal;

use microagent_pipeline::{Event, Progress};

use self::bars::Bars;
use self::events::Events;
use self::lines::Lines;
use crate::output::Output;

/// Prints the events of a pipeline.
#[derive(Debug)]
pub struct Reporter {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Bars(Bars),
    Lines(Lines),
    Events(Events),
    Nothing,
}

impl Reporter {
    /// Chooses the form from the output options.
    pub fn new(output: Output) -> Reporter {
        let form = match output {
            Output { quiet: true, .. } => Form::Nothing,
            Output { json: true, .. } => Form::Events(Events::default()),
            _ if std::io::stderr().is_terminal() => Form::Bars(Bars::new(output)),
            _ => Form::Lines(Lines::new(output)),
        };
        Reporter { form }
    }
}

impl Progress for Reporter {
    fn event(&self, event: Event) {
        match &self.form {
            Form::Bars(bars) => bars.event(event),
            Form::Lines(lines) => lines.event(event),
            Form::Events(events) => events.event(&event),
            Form::Nothing => {}
        }
    }
}
