//! The processes that the agent has started.
//!
//! Every process of the guest is started by the agent or descends from one that is, and all of them
//! are in PID namespaces whose first process inherits orphans ([`crate::namespaces`]). So the agent
//! has no other children than these and the reaper of the base ([`crate::reaper`]), and each is
//! reaped by its [`ChildHandle`]. A process id is therefore valid as long as its handle has not
//! reported a status, and no lock is held while a command is executed.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open,
    pidfd_send_signal, waitid,
};

use crate::cgroup::Cgroup;
use crate::spawn::{self, Program, SpawnError};

/// The number of children that have not been reaped.
#[derive(Debug, Default)]
pub struct Children {
    live: Mutex<usize>,
    changed: Condvar,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl Children {
    /// Starts `program`, which is alone in `cgroup`, if it has one.
    pub fn spawn(
        self: &Arc<Children>,
        program: &Program,
        cgroup: Option<Cgroup>,
    ) -> Result<ChildHandle, SpawnError> {
        let pid = spawn::spawn(program, cgroup.as_ref())?;
        // The process is not reaped before the handle does it, so the id is its.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
                return Err(SpawnError::System(error.into()));
            }
        };
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ok(ChildHandle {
            children: Arc::clone(self),
            pid,
            pidfd,
            cgroup,
            status: Cell::new(None),
        })
    }

    /// Waits until no child is left. Returns false if `deadline` passes first.
    pub fn wait_for_none(&self, deadline: Instant) -> bool {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        while *live > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            live = self
                .changed
                .wait_timeout(live, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    fn reaped_one(&self) {
        *self.live.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.changed.notify_all();
    }
}

/// A child. Dropping the handle while the child runs kills its cgroup and its process group, and
/// waits for it.
#[derive(Debug)]
pub struct ChildHandle {
    children: Arc<Children>,
    pid: Pid,
    pidfd: OwnedFd,
    cgroup: Option<Cgroup>,
    status: Cell<Option<Status>>,
}

impl ChildHandle {
    /// Its process id in the agent's namespace.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Becomes readable when the child ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits until the child ends and returns its status.
    pub fn status(&self) -> io::Result<Status> {
        if let Some(status) = self.status.get() {
            return Ok(status);
        }
        let ended = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                ended => break ended?,
            }
        };
        let signal = ended.as_ref().and_then(|ended| ended.terminating_signal());
        let code = ended.as_ref().and_then(|ended| ended.exit_status());
        let status = match signal {
            Some(signal) => Status::Killed(signal),
            None => Status::Exited(code.unwrap_or_default()),
        };
        self.status.set(Some(status));
        self.children.reaped_one();
        Ok(status)
    }

    /// Signals the process, as container engines do, not its group.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it, and with it its process group and its cgroup.
    pub fn kill(&self) {
        self.signal_group(Signal::KILL);
        if let Some(cgroup) = &self.cgroup {
            // Before Linux 5.14 there is only the process group.
            let _ = cgroup.kill();
        }
    }

    /// Signals its process group.
    pub fn signal_group(&self, signal: Signal) {
        if self.status.get().is_none() {
            // It is the leader of its process group until it is reaped.
            let _ = kill_process_group(self.pid, signal);
        }
    }
}

impl Drop for ChildHandle {
    fn drop(&mut self) {
        if self.status.get().is_none() {
            self.kill();
            let _ = self.status();
        }
    }
}
