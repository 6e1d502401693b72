//! A timer for repeating credit requests.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer for several connections. Its file descriptor is readable when one of them is due.
#[derive(Debug)]
pub struct CreditTimer {
    timer: OwnedFd,
    /// The deadline of each waiting connection.
    waiting: Vec<(u64, Instant)>,
}

impl CreditTimer {
    /// A timer without connections.
    ///
    /// # Errors
    /// When the host is out of file descriptors.
    pub fn new() -> io::Result<CreditTimer> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(CreditTimer {
            timer,
            waiting: Vec::new(),
        })
    }

    /// Sets the deadline of a connection, replacing an earlier one.
    pub fn add(&mut self, id: u64, after: Duration) {
        self.waiting.retain(|(waits, _)| *waits != id);
        self.waiting.push((id, Instant::now() + after));
        self.rearm();
    }

    /// Removes and returns the connections whose deadline has passed.
    pub fn take_expired(&mut self) -> Vec<u64> {
        let now = Instant::now();
        let due = self.waiting.extract_if(.., |(_, until)| *until <= now);
        let due = due.map(|(id, _)| id).collect();
        self.rearm();
        due
    }

    /// Removes all connections.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.rearm();
    }

    /// Arms the timer for the earliest deadline, or disarms it if there is none.
    fn rearm(&self) {
        let first = self.waiting.iter().map(|(_, until)| *until).min();
        self.set(first.map_or(Duration::ZERO, |until| {
            // Zero would disarm it.
            until
                .saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        }));
    }

    /// Arms the timer, or disarms it with zero. Also clears an expiration that was not read.
    fn set(&self, after: Duration) {
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: after.as_secs().cast_signed(),
                tv_nsec: i64::from(after.subsec_nanos()),
            },
        };
        // Fails only for invalid times and file descriptors.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &value);
    }
}

impl AsFd for CreditTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
