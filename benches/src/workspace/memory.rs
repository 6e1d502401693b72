//! The memory of the processes that keep a workspace.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Error;

/// In KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub shim_kib: u64,
    pub supervisor_kib: u64,
}

/// The memory of the process that the workspace's `lock` names, and of its child, which runs the VM.
pub(super) fn of_workspace(lock: &Path, guest_mib: u64) -> Result<Kept, Error> {
    let holder = fs::read(lock).map_err(Error::file(lock))?;
    let holder: Value = serde_json::from_slice(&holder).map_err(|source| Error::Parse {
        what: lock.display().to_string(),
        source,
    })?;
    let shim = holder["pid"].as_u64().unwrap_or_default();
    let children = format!("/proc/{shim}/task/{shim}/children");
    let children = fs::read_to_string(&children).map_err(Error::file(&children))?;
    let supervisor = children.trim();
    Ok(Kept {
        shim_kib: of_process(&shim.to_string(), guest_mib)?,
        supervisor_kib: of_process(supervisor, guest_mib)?,
    })
}

/// The proportional share of memory that a process uses, without the memory of its guest.
fn of_process(pid: &str, guest_mib: u64) -> Result<u64, Error> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).map_err(Error::file(&path))?;
    Ok(sum(&smaps, guest_mib << 10))
}

/// The sum of `Pss` in KiB, without mappings of at least `guest` KiB (proc(5), `smaps`).
fn sum(smaps: &str, guest: u64) -> u64 {
    let mut is_guest = false;
    let mut total = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (
            words.next(),
            words.next().and_then(|word| word.parse::<u64>().ok()),
        );
        match (name, value) {
            (Some("Size:"), Some(size)) => is_guest = size >= guest,
            (Some("Pss:"), Some(size)) if !is_guest => total += size,
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_guest_is_not_counted() {
        let smaps = "7f00-7f01 rw-p 0 00:01 1 /memfd:guest (deleted)\n\
                     Size:             131072 kB\nRss:   9000 kB\nPss:   9000 kB\nPss_Dirty: 1 kB\n\
                     5500-5501 r-xp 0 08:01 2 /usr/bin/supervisor\n\
                     Size:               2048 kB\nRss:    700 kB\nPss:    350 kB\n\
                     5600-5601 rw-p 0 00:00 0 [heap]\nSize:  132 kB\nPss:  40 kB\n";
        assert_eq!(sum(smaps, 128 << 10), 390);
    }
}
