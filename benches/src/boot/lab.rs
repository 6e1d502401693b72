//! Measures boots in a lab with our programs, a store with everything cached, and the other
//! monitors installed on this host.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;
use microagent_tests::tool;

use super::perf::Perf;
use crate::{Error, lab_output};

/// The parameters of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The number of boots, after one that is not counted.
    pub iterations: u32,
    /// Memory of the VM in MiB.
    pub memory_mib: u32,
    /// vCPUs of the VM. The deterministic clock supports one CPU.
    pub cpus: u32,
    /// Whether to boot the same kernel with the other monitors.
    pub others: bool,
    /// Whether to mount the lab's cgroups with `favordynmods` (Linux, admin-guide/cgroup-v2.rst).
    /// Creating a VM changes a cgroup, which then does not wait for a grace period.
    pub favordynmods: bool,
}

/// What was measured with one kernel, in one lab.
#[derive(Debug)]
pub struct Measured {
    /// Runs that boot, and the monitors.
    pub booted: Perf,
    /// Runs restored from a snapshot.
    pub restored: Perf,
}

/// Measures runs with the kernel installed on `host`, in a lab with the deterministic clock.
///
/// # Errors
/// When the lab cannot be created, or a run in it fails.
pub fn measure(host: &Host, plan: Plan) -> Result<Measured, Error> {
    let layout = Layout::busybox()?;
    // Four times what an idle host needs. A lab that hangs (docs/testing.md) is booted again after that, up
    // to twice.
    let turn = if plan.others { 120 } else { 40 };
    let deadline = Duration::from_secs(60 + turn * u64::from(plan.iterations));
    let mut lab = Lab::with_machine(Machine {
        deterministic_clock: true,
        deadline,
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.directory(&host.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    if plan.others {
        add_others(&mut lab)?;
    }
    let Plan {
        iterations,
        memory_mib,
        cpus,
        others,
        favordynmods,
    } = plan;
    let alone = if others { "" } else { "--alone" };
    let prepare = if favordynmods {
        "mkdir /cgroup && mount -t cgroup2 -o favordynmods none /cgroup || exit 1\n"
    } else {
        ""
    };
    let perf = format!(
        "export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run\n\
         exec env MICROAGENT_SNAPSHOT=on microagent --json perf boot --image oci:/layout:latest \
         --iterations {iterations} --memory {memory_mib} --cpus {cpus}"
    );
    lab.step("boot", &format!("{prepare}{perf} {alone}"), 1200);
    lab.step("restore", &format!("{perf} --warm --alone"), 600);
    let report = lab.boot()?;
    let read = |step| lab_output::json(&report, step, "boot", "microagent perf boot");
    Ok(Measured {
        booted: read("boot")?,
        restored: read("restore")?,
    })
}

/// Adds QEMU, which the lab itself requires, and Firecracker if installed.
fn add_others(lab: &mut Lab) -> Result<(), Error> {
    lab.qemu()?;
    if let Ok(firecracker) = tool::find("firecracker") {
        lab.program(&firecracker, "/usr/bin/firecracker")?;
    }
    Ok(())
}
