//! The log of the supervisor: warnings and errors go to the caller.
//!
//! A guest can cause some of them at any rate, so each place in the code that logs is reported
//! once. A subscriber of `tracing-subscriber` would be built from parts that are not needed here
//! (spans, formats, filters) and add to the start of every VM.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::warnings::Warnings;

/// Sends the log of this process to `warnings` from now on. The first call in a process counts.
pub(super) fn forward_to(warnings: Warnings) {
    let log = Log {
        warnings,
        seen: Mutex::default(),
    };
    // Fails if there is a subscriber already: in a test program.
    let _ = tracing::subscriber::set_global_default(log);
}

struct Log {
    warnings: Warnings,
    /// The places that have logged.
    seen: Mutex<HashSet<Identifier>>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.insert(event.metadata().callsite()) {
            return;
        }
        drop(seen);
        let mut line = Line::default();
        event.record(&mut line);
        self.warnings.log(line.text());
    }

    // The monitor has no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An event as one line: the message, then the fields in parentheses.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn text(self) -> String {
        let text = match self.fields.is_empty() {
            true => self.message,
            false => format!("{} ({})", self.message, self.fields),
        };
        // Errors of the host may have several lines, and texts of the guest anything.
        text.replace(char::is_control, " ")
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let separator = if self.fields.is_empty() { "" } else { ", " };
            write!(self.fields, "{separator}{}: {value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use microagent_proto::control::FromSupervisor;
    use microagent_proto::warning::Warning;

    use super::*;
    use crate::supervisor::testing::Caller;

    #[test]
    fn warnings_are_forwarded_once_per_place_and_lower_levels_are_not() {
        let (caller, control) = Caller::connected();
        let log = Log {
            warnings: Warnings::new(control),
            seen: Mutex::default(),
        };
        tracing::subscriber::with_default(log, || {
            for number in 1..=3 {
                tracing::warn!(number, error = %"no\nspace", "first {}", "place");
                tracing::info!("not a warning");
            }
            tracing::error!("second place");
        });
        for expected in ["first place (number: 1, error: no space)", "second place"] {
            let expected = FromSupervisor::Warning(Warning::Log(expected.into()));
            assert_eq!(caller.received(), Some(expected));
        }
        assert_eq!(caller.received(), None);
    }
}
