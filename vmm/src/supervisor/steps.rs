//! When each step of the boot was passed.

use std::sync::{Arc, Mutex, PoisonError};

use microagent_proto::control::{Step, StepName};
use rustix::time::{ClockId, clock_gettime};

/// Steps, noted in the order in which they are passed. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Arc<Mutex<Vec<Step>>>);

impl Steps {
    /// Notes that `name` was passed now.
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

    /// What was noted so far.
    pub(super) fn all(&self) -> Vec<Step> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Now, in microseconds of `CLOCK_MONOTONIC`, which all processes of a host share.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // The clock counts up from the host's boot and never is negative.
    now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1000
}
