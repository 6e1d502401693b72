//! The limits that a workspace sets itself, which hold when nobody watches.
//!
//! - `timeout`: the time from the start on. A workspace that needs more has failed.
//! - `ttl`: the time without use. It is in use while a session of `exec`, `connect` or `cp` or a
//!   connection to a published port is open; neither the workload nor a health check uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::machine::supervisor::Streams;
use crate::state::State;

/// How often to look whether it is in use: a tenth of the limit, within these bounds.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// The limits of a workspace that runs.
#[derive(Debug, Default)]
pub struct Limits {
    timeout: Option<(Instant, Duration)>,
    idle: Option<Idle>,
}

#[derive(Debug)]
struct Idle {
    limit: Duration,
    /// The state to enter: stopped or suspended.
    state: State,
    streams: Arc<Streams>,
    /// When it was last seen in use.
    used: Instant,
    /// When to look again.
    look: Instant,
}

/// What a limit demands: that the workspace enters this state, and why.
pub type Demand = (State, String);

impl Limits {
    /// Those of a workspace that runs since `start`. `idle`: the limit, the streams that are its use, and the
    /// state to enter without use.
    pub fn new(
        timeout: Option<Duration>,
        idle: Option<(Duration, Arc<Streams>, State)>,
        start: Instant,
    ) -> Limits {
        Limits {
            // A limit that no clock reaches is none.
            timeout: timeout.and_then(|limit| Some((start.checked_add(limit)?, limit))),
            idle: idle.map(|(limit, streams, state)| Idle {
                limit,
                state,
                streams,
                used: start,
                look: start,
            }),
        }
    }

    /// When to [`check`](Self::check).
    pub fn next(&self) -> Option<Instant> {
        let timeout = self.timeout.map(|(deadline, _)| deadline);
        let look = self.idle.as_ref().map(|idle| idle.look);
        timeout.into_iter().chain(look).min()
    }

    /// Whether nobody uses the workspace, as far as that is known.
    pub fn is_unused(&self) -> bool {
        let open = (self.idle.as_ref()).and_then(|idle| idle.streams.open().ok());
        open == Some(0)
    }

    /// What is demanded at `now`. A limit demands an end once, and that the workspace is suspended each time
    /// that it was idle for so long.
    pub fn check(&mut self, now: Instant) -> Option<Demand> {
        if let Some((deadline, limit)) = self.timeout
            && now >= deadline
        {
            *self = Limits::default();
            let why = format!("its time limit of {} s has passed", limit.as_secs());
            return Some((State::Failed, why));
        }
        let idle = self.idle.as_mut()?;
        if !idle.is_over(now) {
            return None;
        }
        let why = format!("it was idle for {} s", idle.limit.as_secs());
        let state = idle.state;
        match state {
            State::Suspended => idle.used = now,
            _ => *self = Limits::default(),
        }
        Some((state, why))
    }
}

impl Idle {
    fn is_over(&mut self, now: Instant) -> bool {
        // What cannot be counted may be in use.
        let open = self.streams.open().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot find out whether the workspace is in use");
            1
        });
        let used = match open {
            0 => self.streams.last_added().unwrap_or(self.used),
            _ => now,
        };
        self.used = self.used.max(used);
        let left = self
            .limit
            .saturating_sub(now.saturating_duration_since(self.used));
        self.look = now + left.min((self.limit / 10).clamp(LOOK.0, LOOK.1));
        left.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_workspace_that_needs_more_time_has_failed() {
        let start = Instant::now();
        assert_eq!(Limits::new(None, None, start).next(), None);
        assert_eq!(Limits::new(Some(Duration::MAX), None, start).next(), None);
        let mut limits = Limits::new(Some(seconds(9)), None, start);
        assert_eq!(limits.next(), Some(start + seconds(9)));
        assert_eq!(limits.check(start + seconds(8)), None);
        let demand = (State::Failed, "its time limit of 9 s has passed".to_owned());
        assert_eq!(limits.check(start + seconds(9)), Some(demand));
        assert_eq!(
            (limits.check(start + seconds(9)), limits.next()),
            (None, None)
        );
    }

    #[test]
    fn a_workspace_that_nobody_uses_is_stopped() {
        let start = Instant::now();
        let streams = Arc::new(Streams::new().unwrap());
        let idle = Some((seconds(100), Arc::clone(&streams), State::Stopped));
        let mut limits = Limits::new(Some(seconds(1000)), idle, start);
        assert_eq!(limits.check(start), None);
        assert_eq!(limits.next(), Some(start + LOOK.1));
        assert_eq!(limits.check(start + seconds(97)), None);
        assert_eq!(limits.next(), Some(start + seconds(100)));
        // The looks come sooner than the end of a short limit.
        let short = Some((seconds(1), Arc::clone(&streams), State::Stopped));
        let mut short = Limits::new(None, short, start);
        assert_eq!(short.check(start), None);
        assert_eq!(short.next(), Some(start + seconds(1) / 10));
        let demand = |limit| Some((State::Stopped, format!("it was idle for {limit} s")));
        assert_eq!(short.check(start + seconds(1)), demand(1));
        assert_eq!(limits.check(start + seconds(100)), demand(100));
        assert_eq!(limits.next(), None);
    }

    #[test]
    fn a_workspace_that_could_not_be_suspended_is_asked_again() {
        let start = Instant::now();
        let streams = Arc::new(Streams::new().unwrap());
        let idle = Some((seconds(100), streams, State::Suspended));
        let mut limits = Limits::new(Some(seconds(1000)), idle, start);
        assert!(limits.is_unused());
        let demand = Some((State::Suspended, "it was idle for 100 s".to_owned()));
        assert_eq!(limits.check(start + seconds(100)), demand);
        assert_eq!(limits.check(start + seconds(199)), None);
        assert_eq!(limits.check(start + seconds(200)), demand);
        let failed = limits.check(start + seconds(1000)).unwrap();
        assert_eq!(failed.0, State::Failed);
        assert!(!limits.is_unused());
    }
}
