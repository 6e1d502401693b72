//! Starts `passt` again when it ends while the VM runs.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{NetworkError, Passt, PasstKiller, lock};

/// How long to wait before it is started again, doubled up to the second each time it ends at once.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// What happened to a network.
#[derive(Debug)]
pub enum Change {
    /// It ended, and the guest's link is down.
    Down(NetworkError),
    /// It works again. Connections of the guest are lost.
    Up,
}

/// Keeps one `passt` running until it is dropped.
#[derive(Debug)]
pub struct Keeper {
    stop: Option<Sender<()>>,
    /// Of the `passt` that runs now.
    killer: Arc<Mutex<PasstKiller>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Keeps `passt`. `attach` gives the network device another backend, and returns whether the VM
    /// still runs; `report` is called with each change.
    ///
    /// # Errors
    /// When this process is out of descriptors or threads.
    pub fn start(
        passt: Passt,
        attach: impl Fn(OwnedFd) -> bool + Send + 'static,
        report: impl FnMut(Change) + Send + 'static,
    ) -> Result<Keeper, NetworkError> {
        let killer = Arc::new(Mutex::new(passt.killer()));
        let (stop, stopped) = mpsc::channel();
        let mut keeping = Keeping {
            killer: Arc::clone(&killer),
            attach,
            report,
        };
        let thread = thread::Builder::new()
            .name("passt".into())
            .stack_size(128 << 10)
            .spawn(move || {
                keeping.keep(passt, |delay| {
                    stopped.recv_timeout(delay) == Err(RecvTimeoutError::Timeout)
                })
            })
            .map_err(NetworkError::io("start a thread"))?;
        Ok(Keeper {
            stop: Some(stop),
            killer,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        lock(&self.killer).kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Keeping<A, R> {
    killer: Arc<Mutex<PasstKiller>>,
    attach: A,
    report: R,
}

impl<A: Fn(OwnedFd) -> bool, R: FnMut(Change)> Keeping<A, R> {
    /// `go_on` waits, and returns whether the network is still wanted.
    fn keep(&mut self, mut passt: Passt, go_on: impl Fn(Duration) -> bool) {
        let mut delay = FIRST_DELAY;
        loop {
            let begun = Instant::now();
            let mut why = NetworkError::PasstEnded(passt.wait());
            if begun.elapsed() > LAST_DELAY {
                delay = FIRST_DELAY;
            }
            let mut reported = false;
            passt = loop {
                // When the VM ends, `passt` ends before this process is told.
                if !go_on(delay) {
                    return;
                }
                delay = LAST_DELAY.min(2 * delay);
                if !reported {
                    (self.report)(Change::Down(why));
                    reported = true;
                }
                match self.start_again() {
                    Ok(Some(passt)) => break passt,
                    Ok(None) => return,
                    Err(error) => why = error,
                }
                tracing::debug!(%why, "the network does not work");
            };
            // A keeper that was dropped before the new killer was in place has killed the old process.
            if !go_on(Duration::ZERO) {
                return;
            }
            (self.report)(Change::Up);
        }
    }

    /// `None` if the VM has ended.
    fn start_again(&self) -> Result<Option<Passt>, NetworkError> {
        let (passt, backend) = Passt::start()?;
        *lock(&self.killer) = passt.killer();
        Ok((self.attach)(backend).then_some(passt))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_passt_that_is_started_while_the_keeper_is_dropped_is_not_waited_for() {
        let (passt, _backend) = Passt::start().unwrap();
        passt.killer().kill();
        let attached = Arc::new(Mutex::new(Vec::new()));
        let reports = RefCell::new(Vec::new());
        let mut keeping = Keeping {
            killer: Arc::new(Mutex::new(passt.killer())),
            attach: |backend| {
                attached.lock().unwrap().push(backend);
                true
            },
            report: |change| reports.borrow_mut().push(matches!(change, Change::Up)),
        };
        // Wanted before the start, and not any more after it.
        let wanted = RefCell::new([true, false].into_iter());
        keeping.keep(passt, |_| wanted.borrow_mut().next().unwrap());
        assert_eq!(*reports.borrow(), [false]);
        assert_eq!(attached.lock().unwrap().len(), 1);
    }
}
