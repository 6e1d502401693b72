//! The only module that reaps processes.
//!
//! PID 1 inherits every orphan of the guest, so it must wait for *all* children, and a session
//! needs the status of *its* child. One thread reaps all children ([`Children::reap_forever`]) and
//! records the status of those that a session started in a table.
//!
//! One lock serializes reaping and starting:
//! - `Command::spawn` waits for a child whose exec failed, so the reaper must not take it;
//! - the process id of a session's child is recorded before the child can be reaped;
//! - a process group is signalled only while its leader is not reaped, so its id cannot have been
//!   reused.

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
    /// Children of sessions, with the status of those that were reaped.
    statuses: HashMap<Pid, Option<WaitStatus>>,
    /// The reaper found no children.
    none_left: bool,
}

impl Children {
    /// Starts `command` and tracks its process.
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
        // The process may already be a zombie, or be reaped; then there is nothing to wait for.
        handle.pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => Some(fd),
            Err(Errno::SRCH) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(handle)
    }

    /// Reaps children as they end, forever. For one thread only.
    pub fn reap_forever(&self) -> ! {
        loop {
            // Only waits: its result, "no children" above all, may be outdated once the lock is
            // held.
            let _ = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut table = self.lock();
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if let Some(entry) = table.statuses.get_mut(&pid) {
                        *entry = Some(status);
                        self.changed.notify_all();
                    }
                }
                // Between the two calls, a child whose exec failed was reaped, or a child was
                // started.
                Ok(None) | Err(Errno::INTR) => {}
                // There are no children. Orphans need a first child, so the next child comes from
                // `spawn`.
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

    /// Waits until no child is left. Returns false if `deadline` passes first.
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

/// A child of a session. Dropping the handle while the child runs kills its process group.
#[derive(Debug)]
pub struct ChildHandle {
    children: Arc<Children>,
    pid: Pid,
    pidfd: Option<OwnedFd>,
}

impl ChildHandle {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the child ends; `None` if it ended before the handle was created.
    pub fn ended(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Waits until the child ends and returns its status.
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
        // If it is reaped later, the reaper discards the status.
        self.children.lock().statuses.remove(&self.pid);
    }
}
