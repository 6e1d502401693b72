//! The state of a workspace, computed from what is true.
//!
//! ```text
//!             create               start                the workload ends, halt, stop
//!  (nothing) ───────▶ prepared ─────────▶ starting ─▶ running ──────────▶ halted | stopped
//!                        ▲                               │ └─ kill ─▶ stopped   │
//!                        │                               └─ died ──▶ failed     │
//!                        └──────── start accepts prepared, halted, stopped, failed
//!  running ─ pause ─▶ paused ─ resume ─▶ running     running ─ quarantine ─▶ quarantined
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Created, and never started.
    Prepared,
    /// Its VM boots.
    Starting,
    /// Its guest is ready.
    Running,
    /// Its vCPUs do not run.
    Paused,
    /// Its VM has ended, and its memory is kept.
    Suspended,
    /// Its guest shuts down.
    Stopping,
    /// The guest was shut down by `halt`.
    Halted,
    /// Severed from everything, for an inspection.
    Quarantined,
    /// The workload has ended with exit code 0, or the VM was stopped.
    Stopped,
    /// The workload has ended otherwise, or the VM or its supervisor died.
    Failed,
}

impl State {
    /// The name in documents and messages.
    pub fn name(self) -> &'static str {
        match self {
            State::Prepared => "prepared",
            State::Starting => "starting",
            State::Running => "running",
            State::Paused => "paused",
            State::Suspended => "suspended",
            State::Stopping => "stopping",
            State::Halted => "halted",
            State::Quarantined => "quarantined",
            State::Stopped => "stopped",
            State::Failed => "failed",
        }
    }

    /// Whether a supervisor exists in this state.
    pub fn is_live(self) -> bool {
        match self {
            State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Quarantined => true,
            State::Prepared | State::Suspended | State::Halted | State::Stopped | State::Failed => {
                false
            }
        }
    }

    /// Whether `start` accepts a workspace in this state.
    pub fn can_start(self) -> bool {
        !self.is_live()
    }

    /// The state of a workspace whose last event was `last` and whose lock is `held`.
    ///
    /// A supervisor records an end before it releases the lock, so a live state without a holder
    /// means that it died. One that has just taken the lock has recorded nothing yet. Who holds that of a
    /// suspended workspace waits for connections to it.
    pub fn compute(last: State, held: bool) -> State {
        match (last.is_live(), held) {
            (false, true) if last == State::Suspended => State::Suspended,
            (true, true) | (false, false) => last,
            (false, true) => State::Starting,
            (true, false) => State::Failed,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 10] = [
        State::Prepared,
        State::Starting,
        State::Running,
        State::Paused,
        State::Suspended,
        State::Stopping,
        State::Halted,
        State::Quarantined,
        State::Stopped,
        State::Failed,
    ];

    #[test]
    fn a_live_state_needs_a_holder_of_the_lock() {
        for last in ALL {
            for held in [false, true] {
                let state = State::compute(last, held);
                let live = held && last != State::Suspended;
                assert_eq!(state.is_live(), live, "{last} {held}");
                assert_eq!(state.can_start(), !live, "{last} {held}");
            }
        }
        for held in [false, true] {
            assert_eq!(State::compute(State::Suspended, held), State::Suspended);
        }
        assert_eq!(State::compute(State::Running, false), State::Failed);
        assert_eq!(State::compute(State::Halted, true), State::Starting);
    }

    #[test]
    fn documents_use_the_names() {
        for state in ALL {
            let json = serde_json::to_value(state).unwrap();
            assert_eq!(json, state.name());
        }
    }
}
