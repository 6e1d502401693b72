//! What a VM uses of the host: processor time and memory of its processes.

use std::fs;

use microagent_proto::control::VmStats;
use rustix::param::{clock_ticks_per_second, page_size};

use super::instance::Instance;
use super::net::Interface;

/// The statistics of a running VM.
pub(super) fn of(instance: &Instance) -> VmStats {
    let others = instance.vm.processes();
    let processes = || std::iter::once("self".to_owned()).chain(others.iter().map(u32::to_string));
    VmStats {
        cpu_micros: processes().map(|process| cpu_micros(&process)).sum(),
        memory_bytes: processes().map(|process| memory_bytes(&process)).sum(),
        disks: (instance.disks.iter())
            .map(|counters| counters.get())
            .collect(),
        net: instance.net.as_ref().map(Interface::stats),
    }
}

/// The processor time of a process, 0 if it has ended.
fn cpu_micros(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let ticks = ticks(&stat).unwrap_or_default();
    ticks.saturating_mul(1_000_000) / clock_ticks_per_second().max(1)
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The name of the program may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some(user.saturating_add(system))
}

/// The memory of a process, in which a page that two processes share counts half, so that the sum of
/// both is right: the guest's memory is mapped in the supervisor and in QEMU. Where the host does not
/// tell that, its resident pages.
fn memory_bytes(process: &str) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    proportional(&rollup).unwrap_or_else(|| {
        let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
        let resident = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        resident.unwrap_or(0u64).saturating_mul(page_size() as u64)
    })
}

/// The field `Pss` of `smaps_rollup`, which is in KiB.
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_proc() {
        let stat = "17 (CPU 0/TCG) x) R 1 17 17 0 -1 4194368 9 0 0 0 120 5 0 0 20 0 4 0 88";
        assert_eq!(ticks(stat), Some(125));
        assert_eq!(ticks("17 (x) R 1"), None);
        let rollup =
            "00400000-7ffe [rollup]\nRss:    900 kB\nPss:             12 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(proportional(rollup), Some(12 << 10));
        assert_eq!(proportional(""), None);
    }

    #[test]
    fn this_process_has_memory_and_one_that_does_not_exist_has_none() {
        assert!(memory_bytes("self") > 1 << 20, "{}", memory_bytes("self"));
        assert_eq!((memory_bytes("0"), cpu_micros("0")), (0, 0));
    }
}
