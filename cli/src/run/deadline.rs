//! `--timeout`, enforced in every state of the main thread.
//!
//! A thread waits for the deadline and kills the VM, which unblocks the main thread unless it is
//! blocked writing to standard output. If the main thread has not ended the process within
//! [`GRACE`], this thread does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use microagent_pipeline::ErrorKind;

use crate::failure::{EXIT_TIMED_OUT, Failure};
use crate::supervisor::Killer;
use crate::termination::Termination;

/// How long the main thread may take to end the process after the deadline.
const GRACE: Duration = Duration::from_secs(2);

/// A running deadline. Dropping it cancels it.
#[derive(Debug)]
pub struct Deadline {
    fired: Arc<AtomicBool>,
    seconds: u64,
    _cancel: Option<Sender<()>>,
}

impl Deadline {
    /// Starts the timer; without `seconds` it never fires.
    pub fn start(seconds: Option<u64>, killer: Killer, termination: Termination) -> Deadline {
        let fired = Arc::new(AtomicBool::new(false));
        let Some(seconds) = seconds else {
            return Deadline {
                fired,
                seconds: 0,
                _cancel: None,
            };
        };
        let (cancel, cancelled) = mpsc::channel();
        let flag = Arc::clone(&fired);
        thread::spawn(move || {
            let elapsed = |timeout| {
                cancelled.recv_timeout(timeout) == Err::<(), _>(RecvTimeoutError::Timeout)
            };
            if elapsed(Duration::from_secs(seconds)) {
                flag.store(true, Ordering::SeqCst);
                killer.kill();
                if elapsed(GRACE) {
                    termination.terminate(EXIT_TIMED_OUT, &timed_out(seconds));
                }
            }
        });
        Deadline {
            fired,
            seconds,
            _cancel: Some(cancel),
        }
    }

    /// The failure to report, if it has fired.
    pub fn fired(&self) -> Option<Failure> {
        self.fired
            .load(Ordering::SeqCst)
            .then(|| timed_out(self.seconds))
    }
}

fn timed_out(seconds: u64) -> Failure {
    Failure::new(
        ErrorKind::Timeout,
        format!("the command did not end within {seconds} s"),
    )
    .remediation("use a longer --timeout SECONDS")
    .exits(EXIT_TIMED_OUT)
}
