//! Reaping of processes: by process 1 of this machine or container, or by this process.
//!
//! A process that outlives its parent becomes a child of process 1. An init reaps such children; a
//! program that a container runs as process 1 usually does not, and every orphan stays a zombie.

use std::fmt::Display;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, wait};

/// The bit of SIGCHLD in the signal masks of proc(5).
const SIGCHLD: u64 = 1 << (17 - 1);

/// Whether process 1 reaps its adopted children, as far as can be seen. False if in doubt.
pub fn reaps_orphans() -> bool {
    let status = fs::read_to_string("/proc/1/status").unwrap_or_default();
    let children = fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    // The youngest are last.
    const RECENT: usize = 16;
    let zombie = |pid: &str| stat_after_name(pid).is_some_and(|rest| rest.starts_with('Z'));
    waits_for_children(&status) && !children.split_whitespace().rev().take(RECENT).any(zombie)
}

/// Makes this process the parent of descendants whose own parent dies, also after execve(2).
pub fn adopt_orphans() {
    // Fails only on kernels before Linux 3.4; then process 1 adopts them.
    let _ = set_child_subreaper(Some(getpid()));
}

/// Reaps all children of this process. Returns after `timeout` if one does not end.
pub fn reap_children(timeout: Duration) {
    let deadline = Instant::now() + timeout;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            // There is no child any more.
            Ok(None) | Err(_) => return,
        }
    }
}

/// Whether a process with this `/proc/PID/status` wants to know of the end of its children: it
/// catches, ignores (the kernel then reaps them) or blocks (for signalfd or sigwait) SIGCHLD.
fn waits_for_children(status: &str) -> bool {
    let masks = ["SigBlk", "SigIgn", "SigCgt"];
    masks
        .iter()
        .any(|name| signal_mask(status, name) & SIGCHLD != 0)
}

/// A mask of signals in `/proc/PID/status`, such as `SigIgn`; signal N is bit N - 1 (proc(5)). Zero
/// if there is none of this name.
pub fn signal_mask(status: &str, name: &str) -> u64 {
    let mask = (status.lines()).find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The fields of `/proc/PID/stat` from the third on: state, parent and so on. The second, the name,
/// ends with the last parenthesis.
pub fn stat_after_name(pid: impl Display) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_is_told_from_a_program_that_does_not_wait() {
        let status = |blocked, ignored, caught| {
            format!(
                "Name:\tx\nSigQ:\t0/1\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n\
                 SigCgt:\t{caught:016x}\nCapInh:\t000001ffffffffff\n"
            )
        };
        // sleep(1), then systemd, a program that ignores SIGCHLD, and a shell.
        assert!(!waits_for_children(&status(0, 0, 0)));
        assert!(waits_for_children(&status(
            0x7be3_c0fe_2801_4a03 | SIGCHLD,
            0x1000,
            0
        )));
        assert!(waits_for_children(&status(0, SIGCHLD, 0)));
        assert!(waits_for_children(&status(0, 4, SIGCHLD | 2)));
        assert!(!waits_for_children(""));
    }
}
