//! Reminds of connections that must ask the guest for its credit again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// How long a guest has to read before it is asked again, in nanoseconds.
const INTERVAL: i64 = 10_000_000;

/// A timer that runs only while somebody waits for it.
#[derive(Debug)]
pub struct CreditTimer {
    timer: OwnedFd,
    waiting: Vec<u64>,
}

impl CreditTimer {
    /// A timer that does not run.
    ///
    /// # Errors
    /// When the host has no descriptors left.
    pub fn new() -> io::Result<CreditTimer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(CreditTimer {
            timer,
            waiting: Vec::new(),
        })
    }

    /// Reminds of this connection.
    pub fn add(&mut self, id: u64) {
        if self.waiting.is_empty() {
            self.set(INTERVAL);
        }
        self.waiting.push(id);
    }

    /// Whom to remind of, now that the timer has fired.
    pub fn take(&mut self) -> Vec<u64> {
        self.set(0);
        std::mem::take(&mut self.waiting)
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        self.take();
    }

    /// Setting it also takes back an expiry that was not read.
    fn set(&self, nanoseconds: i64) {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: 0,
                tv_nsec: nanoseconds,
            },
        };
        // It fails for times out of range and descriptors that are no timers only.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}

impl AsFd for CreditTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
