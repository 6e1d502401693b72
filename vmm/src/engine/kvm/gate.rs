//! Where the vCPU threads wait while their VM is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A gate that each vCPU thread passes before it enters the guest.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Changed under the lock only.
    closed: AtomicBool,
    /// The number of threads that wait.
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits while the gate is closed; returns whether it was.
    pub(super) fn pass(&self) -> bool {
        if !self.is_closed() {
            return false;
        }
        let mut waiting = self.lock();
        *waiting += 1;
        self.changed.notify_all();
        while self.is_closed() {
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *waiting -= 1;
        true
    }

    /// Lets no thread pass.
    pub(super) fn close(&self) {
        let _waiting = self.lock();
        self.closed.store(true, Ordering::Release);
    }

    /// Lets all threads pass.
    pub(super) fn open(&self) {
        let _waiting = self.lock();
        self.closed.store(false, Ordering::Release);
        self.changed.notify_all();
    }

    /// Whether so many threads wait, or do so within `limit`.
    pub(super) fn is_waited_at_by(&self, threads: usize, limit: Duration) -> bool {
        let (waiting, _) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |waiting| *waiting < threads)
            .unwrap_or_else(PoisonError::into_inner);
        *waiting >= threads
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn threads_wait_while_it_is_closed_and_pass_when_it_opens() {
        let gate = Arc::new(Gate::default());
        assert!(!gate.pass());
        gate.close();
        let (passed, passing) = mpsc::channel();
        for _ in 0..3 {
            let (gate, passed) = (Arc::clone(&gate), passed.clone());
            thread::spawn(move || passed.send(gate.pass()));
        }
        assert!(gate.is_waited_at_by(3, Duration::from_secs(60)));
        assert!(!gate.is_waited_at_by(4, Duration::ZERO));
        assert!(passing.try_recv().is_err());
        gate.open();
        for _ in 0..3 {
            assert_eq!(passing.recv(), Ok(true));
        }
        assert!(!gate.pass());
    }
}
