//! A description of the machine that does not identify it.

use std::fs;
use std::num::NonZero;

use serde::Serialize;

/// The machine a benchmark ran on.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The model name of the processor.
    pub processor: String,
    /// The number of cores available to this process.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The kernel release.
    pub kernel: String,
    /// The type of the file system on which images are built.
    pub file_system: String,
    /// The one-minute load average before the measurement; other load distorts the results.
    pub load_before: f64,
}

impl Machine {
    /// Describes this machine.
    pub fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        let system = rustix::system::sysinfo();
        let loads = read("/proc/loadavg");
        let load = loads.split(' ').next().and_then(|load| load.parse().ok());
        Machine {
            processor: model.unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            memory_mib: (system.totalram as u64).saturating_mul(u64::from(system.mem_unit)) >> 20,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&std::env::temp_dir()),
            load_before: load.unwrap_or(0.0),
        }
    }
}

/// The name of a file system type, by its magic number (statfs(2)).
fn file_system(path: &std::path::Path) -> String {
    let known = match rustix::fs::statfs(path).map(|stat| stat.f_type as u64 & 0xffff_ffff) {
        Ok(0xef53) => "ext4",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x794c_7630) => "overlayfs",
        _ => "another",
    };
    known.to_owned()
}
