//! The monitors that need KVM, in the lab, which runs a copy of this program.

use std::time::Duration;

use microagent_tests::lab::{Lab, Machine};

use super::monitor::Monitor;
use crate::guest::{Guest, IN_LAB};
use crate::{Error, lab_output};

/// The timeout of one boot in seconds.
const STEP_SECONDS: u32 = 300;

/// Measures our monitor and QEMU alternately in one lab; returns the rates of each round.
///
/// # Errors
/// When the lab cannot be created, or a VM does not complete its measurements.
pub fn measure(
    guest: &Guest,
    mib: u32,
    rounds: u32,
    deterministic_clock: bool,
) -> Result<Vec<[Vec<f64>; 2]>, Error> {
    let mut lab = Lab::with_machine(Machine {
        // Two CPUs let the device's thread run beside the vCPU; the deterministic clock allows one.
        cpus: if deterministic_clock { 1 } else { 2 },
        deterministic_clock,
        deadline: Duration::from_secs(3000),
        ..Machine::default()
    })?;
    let itself = std::env::current_exe().map_err(Error::file("this program"))?;
    lab.program(itself, "/usr/bin/disk-bench")?;
    lab.qemu()?;
    lab.file(&guest.kernel, IN_LAB[0])?;
    lab.file(&guest.initramfs, IN_LAB[1])?;
    let monitors = [
        (Monitor::OursKvm, "ours-kvm"),
        (Monitor::QemuKvm, "qemu-kvm"),
    ];
    let name = |round: u32, monitor: &str| format!("{round} {monitor}");
    for round in 0..rounds {
        for (_, monitor) in monitors {
            let script = format!("disk-bench --mib {mib} --inside {monitor}");
            lab.step(&name(round, monitor), &script, STEP_SECONDS);
        }
    }
    let report = lab.boot()?;
    let rates = |round: u32, monitor: &str| -> Result<Vec<f64>, Error> {
        let command = format!("disk-bench --inside {monitor}");
        lab_output::json(&report, &name(round, monitor), "disk", &command)
    };
    (0..rounds)
        .map(|round| Ok([rates(round, monitors[0].1)?, rates(round, monitors[1].1)?]))
        .collect()
}
