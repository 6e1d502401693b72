//! What happens when memory is exhausted: the kernel kills a process, never the agent, and counts.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// How the kernel chooses (proc(5)), below the `/proc` of the agent: `self` is the process that opens
/// it, also in another PID namespace.
const ADJUSTMENT: &CStr = c"self/oom_score_adj";

/// Makes the kernel never choose this process, nor those that it starts, unless they call
/// [`allow_kill`].
pub fn forbid_kill(proc: &OwnedFd) -> io::Result<()> {
    Ok(adjust(proc, b"-1000")?)
}

/// Makes this process one that the kernel may kill. Async-signal-safe.
pub fn allow_kill(proc: &OwnedFd) -> Result<(), Errno> {
    adjust(proc, b"0")
}

fn adjust(proc: &OwnedFd, value: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(proc, ADJUSTMENT, flags, Mode::empty())?;
    rustix::io::write(&file, value).map(drop)
}

const VMSTAT: &str = "/proc/vmstat";

/// The maximum size of `/proc/vmstat`, in bytes; it has about 200 lines.
const MAX_SIZE: usize = 32 << 10;

/// The kernel's counter. It stays readable after the agent has left the `/proc` it was opened in.
#[derive(Debug)]
pub struct OomKills(File);

impl OomKills {
    /// Opens the counter.
    pub fn open() -> io::Result<OomKills> {
        File::open(VMSTAT).map(OomKills)
    }

    /// The number of processes killed since the boot. 0 if the kernel does not count them (before
    /// Linux 4.13).
    pub fn count(&self) -> u64 {
        let mut text = vec![0; MAX_SIZE];
        let mut length = 0;
        while let Ok(read @ 1..) = self.0.read_at(&mut text[length..], length as u64) {
            length += read;
        }
        count_in(&text[..length])
    }
}

fn count_in(vmstat: &[u8]) -> u64 {
    vmstat
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"oom_kill "))
        .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_the_others() {
        assert_eq!(count_in(b"pgfault 5\noom_kill 3\nnuma_hit 7\n"), 3);
        assert_eq!(count_in(b"pgfault 5\noom_killer 3\n"), 0);
        assert_eq!(count_in(b""), 0);
    }

    #[test]
    fn the_kernels_counter_is_read_repeatedly() {
        let kills = OomKills::open().unwrap();
        let text = std::fs::read(VMSTAT).unwrap();
        assert!(text.len() < MAX_SIZE);
        assert_eq!(kills.count(), kills.count());
        assert_eq!(kills.count(), count_in(&text));
    }
}
