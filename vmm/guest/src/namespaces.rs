//! The PID and mount namespaces that commands run in.
//!
//! ```text
//!  agent ─┬─ base:     PID 1 is the reaper; setup commands, and commands in an idle VM
//!         └─ workload: PID 1 is the workload; commands started while it runs join it
//! ```
//!
//! A command sees the processes of its own namespace only: the agent is in neither. Each namespace
//! has its own `/proc`, mounted by its first process. Mounts are private to a namespace; the
//! workload's starts as a copy of the base, so mounts of setup commands are there, too.
//!
//! - The base is created for the first command that needs it: a VM that runs only its workload does
//!   not pay for it. Daemons that setup commands start live on in it.
//! - When the workload ends, the kernel kills what is left in its namespace. Then the VM is idle
//!   again.
//!
//! The functions move the *calling thread*, which looks up the command there and then forks it. A
//! thread can enter namespaces once, and can start no threads afterwards.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use crate::children::ChildHandle;
use crate::reaper;
use crate::spawn::SpawnError;

/// The namespaces of a VM.
#[derive(Debug)]
pub struct Namespaces {
    /// This program, which is also the reaper.
    program: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The reaper of the base, if that exists.
    base: Option<OwnedFd>,
    workload: Workload,
}

#[derive(Debug, Default)]
enum Workload {
    #[default]
    None,
    Starting,
    /// Its pidfd.
    Running(Arc<OwnedFd>),
}

/// Why a command has no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A VM has at most one workload at a time.
    #[error("the workload is already running")]
    WorkloadRuns,
    /// The namespace of the workload does not exist yet.
    #[error("the workload is being started")]
    WorkloadStarts,
    /// The kernel refuses.
    #[error("cannot {step}")]
    Kernel {
        /// What failed.
        step: &'static str,
        /// The error from the kernel.
        source: io::Error,
    },
    /// The reaper of the base cannot be started.
    #[error("cannot start the first process of the namespace")]
    Reaper(#[from] SpawnError),
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> NamespaceError {
    move |error| NamespaceError::Kernel {
        step,
        source: error.into(),
    }
}

impl Namespaces {
    /// No namespace yet. `program` is this program's file.
    pub fn new(program: OwnedFd) -> Namespaces {
        Namespaces {
            program,
            state: Mutex::default(),
        }
    }

    /// Moves this thread to new namespaces, of which the next process that it starts is the first
    /// one; that process must mount `/proc`.
    pub fn enter_for_workload(self: &Arc<Namespaces>) -> Result<WorkloadSlot, NamespaceError> {
        // Declared before the guard, and so dropped after it: its drop takes the lock.
        let slot;
        let mut state = self.lock();
        match state.workload {
            Workload::None => {}
            Workload::Starting => return Err(NamespaceError::WorkloadStarts),
            Workload::Running(_) => return Err(NamespaceError::WorkloadRuns),
        }
        slot = WorkloadSlot(Arc::clone(self));
        state.workload = Workload::Starting;
        own_directories()?;
        if let Some(reaper) = &state.base {
            move_into_thread_name_spaces(reaper.as_fd(), ThreadNameSpaceType::MOUNT)
                .map_err(failed("enter the mount namespace of the setup commands"))?;
        }
        drop(state);
        new_namespaces()?;
        Ok(slot)
    }

    /// Moves this thread to the namespaces of the workload if it runs, and to the base otherwise.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        let mut state = self.lock();
        let both = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::PROCESS_ID;
        match &state.workload {
            Workload::Starting => return Err(NamespaceError::WorkloadStarts),
            Workload::Running(pidfd) => {
                let pidfd = Arc::clone(pidfd);
                drop(state);
                own_directories()?;
                return move_into_thread_name_spaces(pidfd.as_fd(), both)
                    .map_err(failed("join the workload"));
            }
            Workload::None => {}
        }
        own_directories()?;
        if let Some(reaper) = &state.base {
            return move_into_thread_name_spaces(reaper.as_fd(), both)
                .map_err(failed("enter the namespaces of the setup commands"));
        }
        new_namespaces()?;
        state.base = Some(reaper::start(&self.program)?);
        Ok(())
    }

    /// Waits until the base has no process left. Returns false if `deadline` passes first.
    pub fn wait_for_base(&self, deadline: Instant) -> bool {
        let state = self.lock();
        let Some(reaper) = &state.base else {
            return true;
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = left.try_into().ok();
            match poll(&mut [PollFd::new(reaper, PollFlags::IN)], timeout.as_ref()) {
                Err(Errno::INTR) => {}
                result => return result.is_ok_and(|ready| ready > 0),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads of a process share root and working directory, and such a thread cannot change its mount
/// namespace.
fn own_directories() -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_FS).map_err(failed("separate the session's directories"))
}

/// Creates namespaces, without the `/proc` of the namespace that they are copied from.
fn new_namespaces() -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
        .map_err(failed("create namespaces for the command"))?;
    match unmount("/proc", UnmountFlags::DETACH) {
        // EINVAL: nothing is mounted there.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(failed("unmount the former /proc")(error)),
    }
}

/// The right to be the workload. Dropping it makes the VM idle.
#[derive(Debug)]
pub struct WorkloadSlot(Arc<Namespaces>);

impl WorkloadSlot {
    /// From now on, commands join this process.
    pub fn started(&self, child: &ChildHandle) -> io::Result<()> {
        let pidfd = child.pidfd().try_clone_to_owned()?;
        self.0.lock().workload = Workload::Running(Arc::new(pidfd));
        Ok(())
    }
}

impl Drop for WorkloadSlot {
    fn drop(&mut self) {
        self.0.lock().workload = Workload::None;
    }
}
