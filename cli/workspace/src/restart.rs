//! When a workspace that ended is started again.
//!
//! | policy | started again after |
//! |---|---|
//! | `never` | nothing |
//! | `on-failure` | `failed` |
//! | `always` | `failed`, `stopped` |
//!
//! After `halted` and `quarantined` none starts it: somebody wanted it so. Between two starts there
//! are 1, 2, 4 … seconds, at most [`MAX_DELAY`]. A workspace that ran for that long before it ended
//! begins anew, with the delay and with the count of restarts.

use std::time::Duration;

use crate::spec::Restart;
use crate::state::State;

/// The delay before the first restart.
pub const MIN_DELAY: Duration = Duration::from_secs(1);

/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(60);

/// What to do with a workspace that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it after this time.
    Start(Duration),
    /// Leave it as it is.
    Leave,
    /// Leave it: it was started again as often as allowed.
    GiveUp,
}

/// The restarts of one workspace.
#[derive(Debug, Clone)]
pub struct Restarts {
    /// The number of restarts in a row.
    in_row: u32,
    /// How many are allowed.
    limit: Option<u32>,
}

impl Restarts {
    /// With at most `limit` restarts in a row.
    pub fn new(limit: Option<u32>) -> Restarts {
        Restarts { in_row: 0, limit }
    }

    /// What to do with a workspace that was found in `state`, before it was started the first time.
    pub fn first(&self, policy: Restart, state: State) -> Decision {
        let prepared = state == State::Prepared && policy != Restart::Never;
        match prepared || applies(policy, state) {
            true => Decision::Start(Duration::ZERO),
            false => Decision::Leave,
        }
    }

    /// What to do with a workspace that has ended in `state` after it ran for `ran`.
    pub fn next(&mut self, policy: Restart, state: State, ran: Duration) -> Decision {
        if ran >= MAX_DELAY {
            self.in_row = 0;
        }
        if !applies(policy, state) {
            return Decision::Leave;
        }
        if self.limit.is_some_and(|limit| self.in_row >= limit) {
            return Decision::GiveUp;
        }
        // 2 to the power of 6 is more than the longest delay.
        let delay = MIN_DELAY * 2u32.pow(self.in_row.min(6));
        self.in_row = self.in_row.saturating_add(1);
        Decision::Start(delay.min(MAX_DELAY))
    }
}

fn applies(policy: Restart, state: State) -> bool {
    match policy {
        Restart::Never => false,
        Restart::OnFailure => state == State::Failed,
        Restart::Always => matches!(state, State::Failed | State::Stopped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_policy_decides_by_the_state() {
        use Restart::{Always, Never, OnFailure};
        for (policy, state, begins, again) in [
            (Never, State::Prepared, false, false),
            (Never, State::Failed, false, false),
            (OnFailure, State::Prepared, true, false),
            (OnFailure, State::Failed, true, true),
            (OnFailure, State::Stopped, false, false),
            (OnFailure, State::Halted, false, false),
            (Always, State::Prepared, true, false),
            (Always, State::Failed, true, true),
            (Always, State::Stopped, true, true),
            (Always, State::Halted, false, false),
            (Always, State::Quarantined, false, false),
        ] {
            let mut restarts = Restarts::new(None);
            let first = restarts.first(policy, state) != Decision::Leave;
            assert_eq!(first, begins, "{policy:?} {state}");
            let next = restarts.next(policy, state, SECOND) != Decision::Leave;
            assert_eq!(next, again, "{policy:?} {state}");
        }
    }

    #[test]
    fn the_delay_doubles_up_to_a_minute_and_a_long_run_begins_anew() {
        let mut restarts = Restarts::new(None);
        let mut next = |ran| match restarts.next(Restart::OnFailure, State::Failed, ran) {
            Decision::Start(delay) => delay.as_secs(),
            decision => panic!("{decision:?}"),
        };
        let delays: Vec<u64> = (0..9).map(|_| next(SECOND)).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(next(MAX_DELAY - SECOND), 60);
        assert_eq!([next(MAX_DELAY), next(SECOND)], [1, 2]);
    }

    #[test]
    fn restarts_in_a_row_are_limited() {
        let mut restarts = Restarts::new(Some(2));
        let mut next = |ran| restarts.next(Restart::Always, State::Stopped, ran);
        assert_eq!(next(SECOND), Decision::Start(SECOND));
        assert_eq!(next(SECOND), Decision::Start(2 * SECOND));
        assert_eq!(next(SECOND), Decision::GiveUp);
        assert_eq!(next(MAX_DELAY), Decision::Start(SECOND));
    }
}
