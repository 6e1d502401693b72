//! The lab, which runs a copy of this program.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;

use super::inside::Measured;
use crate::{Error, lab_output};

/// Measures with the kernel installed on `host`.
///
/// # Errors
/// When the lab cannot be created, or a command in it fails.
pub fn measure(host: &Host, rounds: u32) -> Result<Measured, Error> {
    let layout = Layout::busybox()?;
    let mut lab = Lab::with_machine(Machine {
        deterministic_clock: true,
        // Several times what an idle host needs.
        deadline: Duration::from_secs(60 + 60 * u64::from(rounds)),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.directory(&host.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    let itself = std::env::current_exe().map_err(Error::file("this program"))?;
    lab.program(itself, "/usr/bin/workspace-bench")?;
    let script = format!(
        "export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run\n\
         exec workspace-bench --inside --rounds {rounds} --image oci:/layout:latest --state /state"
    );
    lab.step("workspaces", &script, 1200);
    let report = lab.boot()?;
    lab_output::json(
        &report,
        "workspaces",
        "workspace",
        "workspace-bench --inside",
    )
}
