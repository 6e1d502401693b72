//! Reminds of connections that must ask the guest for its credit again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that runs only while somebody waits for it.
#[derive(Debug)]
pub struct CreditTimer {
    timer: OwnedFd,
    /// Who waits until when: at most as many as there are connections.
    waiting: Vec<(u64, Instant)>,
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

    /// Reminds of this connection after so long, and not as it was asked to before.
    pub fn add(&mut self, id: u64, after: Duration) {
        self.waiting.retain(|(waits, _)| *waits != id);
        self.waiting.push((id, Instant::now() + after));
        self.rearm();
    }

    /// Whom to remind of by now.
    pub fn take_expired(&mut self) -> Vec<u64> {
        let now = Instant::now();
        let due = self.waiting.extract_if(.., |(_, until)| *until <= now);
        let due = due.map(|(id, _)| id).collect();
        self.rearm();
        due
    }

    /// Forgets everybody.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.rearm();
    }

    /// Until the first of all; not at all where there is none.
    fn rearm(&self) {
        let first = self.waiting.iter().map(|(_, until)| *until).min();
        self.set(first.map_or(Duration::ZERO, |until| {
            // Zero would stop it.
            until
                .saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        }));
    }

    /// Setting it also takes back an expiry that was not read.
    fn set(&self, after: Duration) {
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: i64::from(after.subsec_nanos()),
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
