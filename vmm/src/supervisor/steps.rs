//! The time at which each step of the boot was completed.

use std::sync::{Arc, Mutex, PoisonError};

use microagent_proto::control::{Step, StepName};
use rustix::time::{ClockId, clock_gettime};

/// Completed steps in order. Clones share one list.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Arc<Mutex<Vec<Step>>>);

impl Steps {
    /// Records that `name` is completed now.
    pub(super) fn note(&self, name: StepName) {
        let step = Step {
            name,
            monotonic_micros: monotonic_micros(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }

    /// Forgets the steps after `name`, which are made again.
    pub(super) fn go_back_to(&self, name: StepName) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = steps.iter().position(|step| step.name == name);
        steps.truncate(after.map_or(0, |index| index + 1));
    }

    /// The steps recorded so far.
    pub(super) fn all(&self) -> Vec<Step> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The current time in microseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock counts up from the host's boot and is never negative.
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}
