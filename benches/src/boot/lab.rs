//! A lab in which boots are measured: our programs, a store in which all is cached, and the other
//! monitors that this host has.

use std::time::Duration;

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::microagent::Host;
use microagent_tests::tool;

use super::perf::Perf;
use crate::Error;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How often, after once that does not count.
    pub iterations: u32,
    /// Memory of the VM in MiB.
    pub memory_mib: u32,
    /// vCPUs of the VM. The deterministic clock knows one processor.
    pub cpus: u32,
    /// Boot the same kernel with the other monitors.
    pub others: bool,
    /// Mount the lab's cgroups with `favordynmods` (Linux, admin-guide/cgroup-v2.rst): changing
    /// them, which creating a VM does, then waits for no grace period.
    pub favordynmods: bool,
}

/// Measures boots of the kernel that is installed on `host`, in a lab with the deterministic
/// clock.
///
/// # Errors
/// When the lab cannot be made, or a boot in it fails.
pub fn measure(host: &Host, plan: Plan) -> Result<Perf, Error> {
    let layout = Layout::busybox()?;
    // Several times what an idle host needs. A lab that hangs (docs/testing.md) is booted again after
    // that.
    let deadline = Duration::from_secs(240 + 120 * u64::from(plan.iterations));
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
    let script = format!(
        "{prepare}export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run\n\
         exec microagent --json perf boot --image oci:/layout:latest --iterations {iterations} \
         --memory {memory_mib} --cpus {cpus} {alone}"
    );
    lab.step("boot", &script, 1200);
    let report = lab.boot()?;
    let step = report.step("boot");
    if step.code != 0 {
        return Err(Error::NotMeasured {
            build: "boot",
            why: step.errors(),
        });
    }
    serde_json::from_slice(&step.stdout).map_err(|source| Error::Answer {
        command: "microagent perf boot".into(),
        source,
    })
}

/// QEMU, whose package the lab itself needs, and Firecracker where there is one.
fn add_others(lab: &mut Lab) -> Result<(), Error> {
    lab.qemu()?;
    if let Ok(firecracker) = tool::find("firecracker") {
        lab.program(&firecracker, "/usr/bin/firecracker")?;
    }
    Ok(())
}
