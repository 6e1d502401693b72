//! How a workspace ended, and what the command that starts it is told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use microagent_pipeline::ErrorKind;

use super::config::Started;
use crate::state::State;

/// How a workspace ended.
#[derive(Debug)]
pub struct End {
    /// The state after it.
    pub state: State,
    /// Why.
    pub detail: Option<String>,
    /// Why, if it was never ready.
    pub start: Option<Started>,
}

impl End {
    /// The report of a workspace that was never ready.
    pub fn report(&self) -> Started {
        match (&self.start, self.state, &self.detail) {
            (Some(start), ..) => start.clone(),
            (None, State::Failed, Some(detail)) => Started::Failed {
                kind: ErrorKind::Guest.as_str().to_owned(),
                message: detail.clone(),
                remediation: None,
            },
            (None, ..) => ended_early(),
        }
    }
}

/// The report of a workspace that was ended before it was ready.
pub fn ended_early() -> Started {
    Started::Failed {
        kind: ErrorKind::Conflict.as_str().to_owned(),
        message: "the workspace was stopped while it started".to_owned(),
        remediation: None,
    }
}

/// A state after the end, and why.
pub type Outcome = (State, Option<String>);

/// How a client has ended a workspace that still starts.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<Mutex<Option<Outcome>>>);

impl Ending {
    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first decision counts.
    pub fn decide(&self, state: State, reason: Option<String>) {
        self.lock().get_or_insert((state, reason));
    }

    /// What was decided.
    pub fn take(&self) -> Option<Outcome> {
        self.lock().take()
    }
}
