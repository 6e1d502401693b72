//! Another session for a workload whose own was lost: that of before its VM was saved.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::stream::Stream;

/// Where the workload gets its next session from.
#[derive(Debug, Default)]
pub struct Relay {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A workload waits for a session, or will as soon as it notices that its own is lost.
    kept: bool,
    next: Option<Stream>,
}

impl Relay {
    /// There is a workload that takes another session, as long as the result exists.
    pub fn open(&self) -> Open<'_> {
        self.lock().kept = true;
        Open(self)
    }

    /// Whether there is such a workload.
    pub fn is_open(&self) -> bool {
        self.lock().kept
    }

    /// Gives the workload a session; of several that it has not taken yet the last. Returns whether there is
    /// a workload.
    pub fn give(&self, stream: Stream) -> bool {
        let mut state = self.lock();
        if state.kept {
            state.next = Some(stream);
            self.changed.notify_all();
        }
        state.kept
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A workload that takes another session.
#[derive(Debug)]
pub struct Open<'a>(&'a Relay);

impl Open<'_> {
    /// Waits for a session.
    pub fn take(&self) -> Stream {
        let mut state = self.0.lock();
        loop {
            if let Some(stream) = state.next.take() {
                return stream;
            }
            state = (self.0.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Open<'_> {
    /// A session that was not taken is closed.
    fn drop(&mut self) {
        *self.0.lock() = State::default();
    }
}
