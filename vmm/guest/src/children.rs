//! The only place that reaps.
//!
//! PID 1 inherits every orphan of the guest, so somebody must wait for *all* children; and a
//! session must learn how *its* child ended. One thread reaps everything
//! ([`Children::reap_forever`]) and leaves the status of children that a session started in a
//! table.
//!
//! Reaping and starting exclude each other by one lock:
//! - `Command::spawn` itself waits for a child whose exec failed; it must find it;
//! - the process id of a child of ours is recorded before it can be reaped;
//! - a process group is only signalled while its leader is not reaped, so its id cannot have been
//!   given to somebody else.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process_group,
    pidfd_open, wait, waitid,
};

/// All children of this process.
#[derive(Debug, Default)]
pub struct Children {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// Children of sessions; the status once reaped.
    statuses: HashMap<Pid, Option<WaitStatus>>,
    /// Nothing is left to wait for, as far as the reaper knows.
    none_left: bool,
}

impl Children {
    /// Starts `command`.
    pub fn spawn(self: &Arc<Children>, command: &mut Command) -> io::Result<ChildHandle> {
        let mut table = self.lock();
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        table.statuses.insert(pid, None);
        table.none_left = false;
        drop(table);
        self.changed.notify_all();
        let mut handle = ChildHandle {
            children: Arc::clone(self),
            pid,
            pidfd: None,
        };
        // It may be a zombie, or even reaped, in which case there is nothing to wait for.
        handle.pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::SRCH) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(handle)
    }

    /// Reaps every child as it ends. For one thread, for ever.
    pub fn reap_forever(&self) -> ! {
        loop {
            // Only to wait: what it says, "no children" above all, may be untrue by the time the
            // lock is held.
            let _ = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut table = self.lock();
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(entry) = table.statuses.get_mut(&pid) {
                        *entry = Some(status);
                        self.changed.notify_all();
                    }
                }
                // Gone between the two calls: a child whose exec failed. Or come between them.
                Ok(None) | Err(Errno::INTR) => {}
                // No children at all. There are no orphans without a first child, so the next one
                // comes from `spawn`.
                Err(_) => {
                    table.none_left = true;
                    self.changed.notify_all();
                    while table.none_left {
                        table = self.wait(table);
                    }
                }
            }
        }
    }

    /// Waits until no child is left; false when `deadline` came first.
    pub fn wait_for_none(&self, deadline: Instant) -> bool {
        let mut table = self.lock();
        while !table.none_left {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            table = self
                .changed
                .wait_timeout(table, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        self.changed
            .wait(table)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child of a session. When it is dropped while the child runs, its process group is killed.
#[derive(Debug)]
pub struct ChildHandle {
    children: Arc<Children>,
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl ChildHandle {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Readable when it has ended; `None` when it had ended before anybody could look.
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Waits until it has ended and says how.
    pub fn status(&self) -> WaitStatus {
        let mut table = self.children.lock();
        loop {
            if let Some(Some(status)) = table.statuses.get(&self.pid) {
                return *status;
            }
            table = self.children.wait(table);
        }
    }

    /// Signals its process group, unless it has been reaped.
    pub fn signal_group(&self, signal: Signal) {
        let table = self.children.lock();
        if let Some(None) = table.statuses.get(&self.pid) {
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

impl Drop for ChildHandle {
    fn drop(&mut self) {
        self.signal_group(Signal::KILL);
        // Reaped later, it is nobody's: the reaper drops its status.
        self.children.lock().statuses.remove(&self.pid);
    }
}
