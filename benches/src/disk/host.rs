//! The monitors without KVM, on this host.

use std::path::Path;

use super::monitor::{self, Monitor};
use crate::Error;
use crate::guest::Guest;

/// A memory-backed directory.
const MEMORY: &str = "/dev/shm";

/// Measures our block device and QEMU's alternately; returns the rates of each round.
///
/// # Errors
/// When a VM does not complete its measurements.
pub fn measure(guest: &Guest, mib: u32, rounds: u32) -> Result<Vec<[Vec<f64>; 2]>, Error> {
    let dir = tempfile::tempdir_in(MEMORY).map_err(Error::file(Path::new(MEMORY)))?;
    let disk = monitor::disk(dir.path(), mib)?;
    let turn = |_| {
        let ours = monitor::measure(Monitor::OursTcg, guest, &disk)?;
        let theirs = monitor::measure(Monitor::QemuTcg, guest, &disk)?;
        Ok([ours, theirs])
    };
    (0..rounds).map(turn).collect()
}
