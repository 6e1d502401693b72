//! The end of a VM, which its vCPU threads and its owner agree on.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use microagent_proto::control::StopReason;
use rustix::event::EventfdFlags;

use super::super::super::EngineError;

pub(super) type Outcome = Result<StopReason, EngineError>;

/// The outcome of a VM, set once: the first report wins.
#[derive(Debug)]
pub(in super::super) struct Termination {
    outcome: Mutex<State>,
    event: rustix::fd::OwnedFd,
}

#[derive(Debug)]
enum State {
    Running,
    Ended(Outcome),
    Taken,
}

impl Termination {
    pub(in super::super) fn new() -> Result<Termination, EngineError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| EngineError::Io {
                operation: "create an event descriptor",
                source: error.into(),
            })?;
        Ok(Termination {
            outcome: Mutex::new(State::Running),
            event,
        })
    }

    /// Ends the VM with this outcome, unless it has already ended.
    pub(in super::super) fn set(&self, outcome: Outcome) {
        let mut state = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Running) {
            *state = State::Ended(outcome);
            // Fails only if the counter is at its maximum; the event is then readable.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    pub(in super::super) fn take(&self) -> Option<Outcome> {
        let mut state = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Running) {
            return None;
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Ended(outcome) => Some(outcome),
            State::Running | State::Taken => None,
        }
    }

    pub(in super::super) fn has_ended(&self) -> bool {
        !matches!(
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner),
            State::Running
        )
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
