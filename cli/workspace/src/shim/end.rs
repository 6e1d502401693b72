//! How a workspace is brought to its end, step by step, each with a deadline.

use std::time::{Duration, Instant};

use crate::state::State;

/// How long the workload may take after its stop signal.
const WORKLOAD: Duration = Duration::from_secs(10);

/// How long the guest may take to shut down.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// How long a killed VM may take to be gone.
const KILL: Duration = Duration::from_secs(5);

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the workspace runs.
    #[default]
    Nothing,
    /// The end of the workload.
    Workload,
    /// The shutdown of the guest.
    Shutdown,
    /// The end of the killed VM.
    Kill,
}

/// The progress towards the end.
#[derive(Debug, Default)]
pub struct Stopping {
    next: Next,
    deadline: Option<Instant>,
    /// Kill the VM if the guest does not shut down in time.
    pub force: bool,
    outcome: Option<(State, Option<String>)>,
}

impl Stopping {
    /// What is waited for.
    pub fn next(&self) -> Next {
        self.next
    }

    /// Until when.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Decides the state after the end, unless it is decided.
    pub fn end_as(&mut self, state: State, detail: Option<String>) {
        self.outcome.get_or_insert((state, detail));
    }

    /// The state after the end, and why. Without a decision the VM ended by itself: `why` says how.
    pub fn outcome(&mut self, why: impl FnOnce() -> String) -> (State, Option<String>) {
        let decided = self.outcome.take();
        decided.unwrap_or_else(|| (State::Failed, Some(why())))
    }

    /// The workload was signalled.
    pub fn wait_for_workload(&mut self) {
        self.wait(Next::Workload, WORKLOAD);
    }

    /// The guest was asked to shut down.
    pub fn wait_for_shutdown(&mut self) {
        self.wait(Next::Shutdown, SHUTDOWN);
    }

    /// The VM was killed.
    pub fn wait_for_kill(&mut self) {
        self.wait(Next::Kill, KILL);
    }

    fn wait(&mut self, next: Next, limit: Duration) {
        self.next = next;
        self.deadline = Some(Instant::now() + limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_is_the_outcome_and_without_one_the_vm_failed() {
        let mut stopping = Stopping::default();
        assert_eq!(stopping.next(), Next::Nothing);
        assert_eq!(
            stopping.outcome(|| "crashed".into()),
            (State::Failed, Some("crashed".into()))
        );
        stopping.end_as(State::Halted, None);
        stopping.end_as(State::Failed, Some("later".into()));
        assert_eq!(stopping.outcome(|| "x".into()), (State::Halted, None));
    }
}
