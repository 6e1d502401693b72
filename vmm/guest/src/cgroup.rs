//! A cgroup (version 2) for each command: what is in it is killed at once, and its limits leave
//! memory, processes and processor time for the next command.
//!
//! ```text
//!  / (the agent) ─┬─ microagent-1   the workload
//!                 ├─ microagent-2   a command beside it
//!                 └─ …
//! ```
//!
//! - The image sees the whole hierarchy at `/sys/fs/cgroup`, as on a machine of its own: an init
//!   system or container engine in the guest makes its groups below its own or at the top. All
//!   controllers are enabled for the top's children.
//! - The kernel divides processor time between the groups, and between them and the agent, whatever
//!   the number of processes in each.
//! - A group whose command has ended is removed when it has no process left, which is looked at when
//!   the next one is made: what a command leaves running stays in its group.
//! - Root in the guest can move its processes elsewhere. These are not killed with the session, and
//!   have no limits.
//!
//! None of this is needed to run one command, and enabling controllers takes a grace period of RCU.
//! So it is done on request ([`microagent_proto::agent::Configure::cgroups`]).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstatfs, mkdirat, openat, unlinkat};
use rustix::io::{Errno, write};
use rustix::system::sysinfo;

use crate::console::log;

/// Where the hierarchy is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The file system's magic number (`CGROUP2_SUPER_MAGIC`).
const MAGIC: u32 = 0x6367_7270;

/// The maximum of memory that is reserved for further commands, in bytes.
const MEMORY_RESERVE: u64 = 32 << 20;

/// The part of the available memory that is reserved, up to [`MEMORY_RESERVE`].
const MEMORY_RESERVE_PART: u64 = 16;

/// How many names are tried: the image may have made directories of these names.
const ATTEMPTS: usize = 16;

/// The hierarchy.
#[derive(Debug)]
pub struct Cgroups {
    top: OwnedFd,
    memory_max: Option<u64>,
    pids_max: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last group.
    last: u64,
    /// The groups of commands that have ended, with processes left.
    ended: Vec<String>,
}

impl Cgroups {
    /// Prepares the mounted hierarchy. `None` if the kernel has none; without controllers there are
    /// no limits.
    pub fn prepare() -> Option<Arc<Cgroups>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, MOUNT, flags, Mode::empty()).ok()?;
        if fstatfs(&top).ok()?.f_type as u32 != MAGIC {
            return None;
        }
        if let Err(error) = enable_controllers(&top) {
            log(&format!(
                "cannot enable the controllers of cgroups: {error}"
            ));
        }
        Some(Arc::new(Cgroups {
            top,
            memory_max: memory_max(),
            pids_max: pids_max(),
            state: Mutex::default(),
        }))
    }

    /// Makes a group.
    pub fn create(self: &Arc<Cgroups>) -> io::Result<Cgroup> {
        let mut state = self.lock();
        state.ended.retain(|name| self.remove(name).is_err());
        let mut attempts = 0;
        let name = loop {
            state.last += 1;
            attempts += 1;
            let name = format!("microagent-{}", state.last);
            match mkdirat(&self.top, &name, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) if attempts < ATTEMPTS => {}
                made => break made.map(|()| name)?,
            }
        };
        drop(state);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match openat(&self.top, &name, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(error) => {
                let _ = self.remove(&name);
                return Err(error.into());
            }
        };
        // A controller that is not enabled has no file.
        for (file, limit) in [("memory.max", self.memory_max), ("pids.max", self.pids_max)] {
            if let Some(limit) = limit {
                let _ = write_file(&directory, file, &limit.to_string());
            }
        }
        Ok(Cgroup {
            cgroups: Arc::clone(self),
            name,
            directory,
        })
    }

    fn remove(&self, name: &str) -> Result<(), Errno> {
        match unlinkat(&self.top, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The group of one command. Dropping it removes it, now or when it has no process left.
#[derive(Debug)]
pub struct Cgroup {
    cgroups: Arc<Cgroups>,
    name: String,
    directory: OwnedFd,
}

impl Cgroup {
    /// Its directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Kills all processes in it and below it, also those that are being forked. Fails before Linux
    /// 5.14.
    pub fn kill(&self) -> io::Result<()> {
        Ok(write_file(&self.directory, "cgroup.kill", "1")?)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.cgroups.remove(&self.name).is_err() {
            let name = std::mem::take(&mut self.name);
            self.cgroups.lock().ended.push(name);
        }
    }
}

fn enable_controllers(top: &OwnedFd) -> io::Result<()> {
    let mut available = String::new();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    File::from(openat(top, "cgroup.controllers", flags, Mode::empty())?)
        .read_to_string(&mut available)?;
    let words: Vec<String> = (available.split_whitespace())
        .map(|controller| format!("+{controller}"))
        .collect();
    Ok(write_file(top, "cgroup.subtree_control", &words.join(" "))?)
}

fn write_file(directory: &OwnedFd, name: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty())?;
    write(&file, text.as_bytes()).map(drop)
}

/// The memory of one command: what is available now, without the reserve.
fn memory_max() -> Option<u64> {
    let available = available_memory(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(available - (available / MEMORY_RESERVE_PART).min(MEMORY_RESERVE))
}

/// `MemAvailable` of proc(5), in bytes.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = (meminfo.lines()).find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// The number of processes and threads of one command: three quarters of what the kernel can have
/// besides those that exist.
fn pids_max() -> Option<u64> {
    let number = |path: &str| -> Option<u64> {
        let text = std::fs::read_to_string(path).ok()?;
        text.trim().parse().ok()
    };
    let threads = number("/proc/sys/kernel/threads-max")?;
    let ids = number("/proc/sys/kernel/pid_max")?;
    let free = (threads.min(ids)).checked_sub(sysinfo().procs.into())?;
    Some((free / 4 * 3).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_available_memory_is_found() {
        let meminfo = "MemTotal:         500 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available_memory(meminfo), Some(1 << 20));
        for damaged in ["", "MemAvailable: x kB\n", "MemAvailable: 5 MB\n"] {
            assert_eq!(available_memory(damaged), None, "{damaged:?}");
        }
        let huge = format!("MemAvailable: {} kB\n", u64::MAX);
        assert_eq!(available_memory(&huge), None);
    }

    #[test]
    fn the_limits_of_this_machine_are_below_what_it_has() {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap();
        let available = available_memory(&text).unwrap();
        // Others use memory meanwhile.
        assert!(memory_max().unwrap() < available + (1 << 30));
        assert!(pids_max().unwrap() > 100);
    }
}
