//! How a workspace is brought to its end, step by step, each with a deadline.

use std::time::{Duration, Instant};

use crate::state::State;

/// How long the workload may take after its stop signal.
const WORKLOAD: Duration = Duration::from_secs(10);

/// How long the guest may take to shut down, together with its workload.
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
    /// When the first step began.
    began: Option<Instant>,
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

    /// Forgets what was decided before [`Stopping::give_up`]: the end is asked for again.
    pub fn ask_again(&mut self) {
        if self.next == Next::Nothing {
            self.outcome = None;
        }
    }

    /// The VM is to be killed, after which it is `stopped` or `failed`: a clean end is no longer
    /// possible.
    pub fn kill_as(&mut self, killed: State, reason: Option<String>) {
        let (state, detail) = self.outcome.take().unwrap_or((killed, None));
        let state = match (state, killed) {
            (State::Failed, _) | (_, State::Failed) => State::Failed,
            _ => State::Stopped,
        };
        self.outcome = Some((state, reason.or(detail)));
    }

    /// The VM was saved and is killed: the workspace is suspended.
    pub fn suspend(&mut self, reason: String) {
        self.outcome = Some((State::Suspended, Some(reason)));
        self.wait_for_kill();
    }

    /// The guest did not obey, and is not killed. What was decided holds if it obeys later.
    pub fn give_up(&mut self) {
        self.next = Next::Nothing;
        self.began = None;
        self.deadline = None;
        self.force = false;
    }

    /// The state after the end, and why. `clean`: the guest powered off; `why`: how the VM ended.
    pub fn outcome(
        &mut self,
        clean: bool,
        why: impl FnOnce() -> String,
    ) -> (State, Option<String>) {
        match self.outcome.take() {
            Some(decided) if clean || self.next == Next::Kill => decided,
            // What the guest had not flushed is lost, whatever it was asked for.
            _ => (State::Failed, Some(why())),
        }
    }

    /// The workload was signalled.
    pub fn wait_for_workload(&mut self) {
        self.wait(Next::Workload, WORKLOAD);
    }

    /// The guest was asked to shut down. What its workload has taken counts.
    pub fn wait_for_shutdown(&mut self) {
        let elapsed = self.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.wait(Next::Shutdown, SHUTDOWN.saturating_sub(elapsed));
    }

    /// The VM was killed.
    pub fn wait_for_kill(&mut self) {
        self.wait(Next::Kill, KILL);
    }

    fn wait(&mut self, next: Next, limit: Duration) {
        let now = Instant::now();
        self.next = next;
        self.began.get_or_insert(now);
        self.deadline = Some(now + limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_is_the_outcome_and_without_one_the_vm_failed() {
        let mut stopping = Stopping::default();
        assert_eq!(stopping.next(), Next::Nothing);
        let crashed = (State::Failed, Some("crashed".to_owned()));
        assert_eq!(stopping.outcome(true, || "crashed".into()), crashed);
        stopping.end_as(State::Halted, None);
        stopping.end_as(State::Failed, Some("later".into()));
        assert_eq!(stopping.outcome(true, || "x".into()), (State::Halted, None));
    }

    #[test]
    fn an_end_that_is_not_clean_is_a_failure_unless_the_vm_was_killed() {
        let halting = || {
            let mut stopping = Stopping::default();
            stopping.end_as(State::Halted, Some("asked".into()));
            stopping.wait_for_shutdown();
            stopping
        };
        let crashed = (State::Failed, Some("crashed".to_owned()));
        assert_eq!(halting().outcome(false, || "crashed".into()), crashed);
        let mut killed = halting();
        killed.kill_as(State::Stopped, None);
        killed.wait_for_kill();
        let stopped = (State::Stopped, Some("asked".to_owned()));
        assert_eq!(killed.outcome(false, || "crashed".into()), stopped);
        let mut unhealthy = halting();
        unhealthy.kill_as(State::Failed, Some("unhealthy".into()));
        unhealthy.wait_for_kill();
        let failed = (State::Failed, Some("unhealthy".to_owned()));
        assert_eq!(unhealthy.outcome(false, || "crashed".into()), failed);
        let mut late = halting();
        late.give_up();
        assert_eq!((late.next(), late.deadline()), (Next::Nothing, None));
        let halted = (State::Halted, Some("asked".to_owned()));
        assert_eq!(late.outcome(true, || "x".into()), halted);
        let mut limited = halting();
        limited.give_up();
        limited.ask_again();
        limited.end_as(State::Failed, Some("too long".into()));
        limited.end_as(State::Stopped, None);
        let failed = (State::Failed, Some("too long".to_owned()));
        assert_eq!(limited.outcome(true, || "x".into()), failed);
    }

    #[test]
    fn a_workload_and_its_guest_have_fifteen_seconds_together() {
        let began = Instant::now();
        let seconds = |stopping: &Stopping| (stopping.deadline().unwrap() - began).as_secs();
        let mut stopping = Stopping::default();
        stopping.wait_for_workload();
        assert_eq!(seconds(&stopping), 10);
        stopping.wait_for_shutdown();
        assert_eq!(seconds(&stopping), 15);
        // A second attempt has as long.
        stopping.began = began.checked_sub(Duration::from_secs(14));
        stopping.wait_for_shutdown();
        assert_eq!(seconds(&stopping), 1);
        stopping.give_up();
        stopping.wait_for_shutdown();
        assert_eq!(seconds(&stopping), 15);
    }

    #[test]
    fn the_last_request_decides_after_the_first_was_given_up() {
        let mut stopping = Stopping::default();
        stopping.end_as(State::Halted, Some("first".into()));
        stopping.wait_for_shutdown();
        // One that comes meanwhile changes nothing.
        stopping.ask_again();
        stopping.give_up();
        stopping.ask_again();
        stopping.end_as(State::Stopped, Some("second".into()));
        stopping.wait_for_shutdown();
        stopping.ask_again();
        let second = (State::Stopped, Some("second".to_owned()));
        assert_eq!(stopping.outcome(true, || "x".into()), second);
    }
}
