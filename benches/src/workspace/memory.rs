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
pub(super) fn of_workspace(lock: &Path) -> Result<Kept, Error> {
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
        shim_kib: of_process(&shim.to_string())?,
        supervisor_kib: of_process(supervisor)?,
    })
}

/// The proportional share of memory that a process uses, without the memory of its guest.
fn of_process(pid: &str) -> Result<u64, Error> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).map_err(Error::file(&path))?;
    Ok(sum(&smaps))
}

/// The sum of `Pss` in KiB, without the guest's memory: the mappings that are excluded from core
/// dumps (`dd` in their `VmFlags`, proc(5)).
fn sum(smaps: &str) -> u64 {
    let (mut total, mut mapping) = (0, 0);
    for line in smaps.lines() {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name {
            "Pss" => mapping = value.trim().trim_end_matches(" kB").parse().unwrap_or(0),
            "VmFlags" if value.split(' ').all(|flag| flag != "dd") => total += mapping,
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
        let smaps = "7f00-7f01 rw-p 0 00:00 0\n\
                     Size:             131072 kB\nPss:   9000 kB\nPss_Dirty: 1 kB\nVmFlags: rd wr nr dd hg\n\
                     5500-5501 r-xp 0 08:01 2 /usr/bin/supervisor\n\
                     Size:               2048 kB\nPss:    350 kB\nVmFlags: rd ex mr\n\
                     5600-5601 rw-p 0 00:00 0 [heap]\nSize:  132 kB\nPss:  40 kB\nVmFlags: rd wr\n";
        assert_eq!(sum(smaps), 390);
    }
}
