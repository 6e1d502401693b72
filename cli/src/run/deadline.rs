//! `--timeout`, enforced in every state of the main thread.
//!
//! A thread waits for the deadline and kills the VM, or the command of `exec`, which unblocks the main
//! thread unless it is blocked writing to standard output or standard error. If the main thread has not ended the
//! process within [`GRACE`], this thread does. A shutdown of the guest after its command has its
//! own time limit and is not cut short, so that disks are written; the time to print the result is
//! limited again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{EXIT_TIMED_OUT, Failure};
use crate::termination::Termination;
use microagent_pipeline::ErrorKind;

/// How long the main thread may take to end the process after the deadline, and at least to print
/// the result.
const GRACE: Duration = Duration::from_secs(2);

/// A running deadline. Dropping it starts the time to print the result.
#[derive(Debug)]
pub struct Deadline {
    fired: Arc<AtomicBool>,
    seconds: u64,
    command_ended: Option<Sender<()>>,
}

impl Deadline {
    /// Starts the timer, which calls `kill`; without `seconds` it never fires.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        seconds: Option<u64>,
        kill: impl FnOnce() + Send + 'static,
        termination: Termination,
    ) -> Result<Deadline, Failure> {
        let fired = Arc::new(AtomicBool::new(false));
        let Some(seconds) = seconds else {
            return Ok(Deadline {
                fired,
                seconds: 0,
                command_ended: None,
            });
        };
        let (command_ended, ended) = mpsc::channel();
        let timer = Timer {
            seconds,
            fired: Arc::clone(&fired),
            ended,
            kill: Box::new(kill),
            termination,
        };
        thread::Builder::new()
            .name("timeout".into())
            .spawn(move || timer.run())
            .map_err(no_thread)?;
        Ok(Deadline {
            fired,
            seconds,
            command_ended: Some(command_ended),
        })
    }

    /// The command has ended: stops the timer until this is dropped.
    pub fn command_ended(&self) {
        if let Some(command_ended) = &self.command_ended {
            let _ = command_ended.send(());
        }
    }

    /// The failure to report, if it has fired.
    pub fn fired(&self) -> Option<Failure> {
        self.fired
            .load(Ordering::SeqCst)
            .then(|| timed_out(self.seconds))
    }
}

struct Timer {
    seconds: u64,
    fired: Arc<AtomicBool>,
    ended: Receiver<()>,
    kill: Box<dyn FnOnce() + Send>,
    termination: Termination,
}

impl Timer {
    fn run(self) {
        // Later than any process lives.
        const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
        let limit = Duration::from_secs(self.seconds).min(NEVER);
        let end = Instant::now() + limit;
        let left = match self.ended.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {
                self.fired.store(true, Ordering::SeqCst);
                (self.kill)();
                thread::sleep(GRACE);
                self.termination
                    .terminate(EXIT_TIMED_OUT, &timed_out(self.seconds))
            }
            Ok(()) => {
                // Ends when the deadline is dropped.
                let _ = self.ended.recv();
                end.saturating_duration_since(Instant::now())
            }
            Err(RecvTimeoutError::Disconnected) => end.saturating_duration_since(Instant::now()),
        };
        thread::sleep(left.max(GRACE));
        let unread = Failure::new(
            ErrorKind::Timeout,
            format!("the output was not read within {} s", self.seconds),
        );
        self.termination
            .terminate(EXIT_TIMED_OUT, &unread.exits(EXIT_TIMED_OUT))
    }
}

fn no_thread(error: io::Error) -> Failure {
    Failure::new(ErrorKind::Host, format!("cannot start a thread: {error}"))
}

fn timed_out(seconds: u64) -> Failure {
    Failure::new(
        ErrorKind::Timeout,
        format!("the command did not end within {seconds} s"),
    )
    .remediation("use a longer --timeout SECONDS")
    .exits(EXIT_TIMED_OUT)
}
