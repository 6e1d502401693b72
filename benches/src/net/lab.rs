//! The measurements with KVM, in the lab with its deterministic clock, which runs a copy of this
//! program.

use microagent_tests::image::Layout;
use microagent_tests::lab::{Lab, Machine};
use microagent_tests::tool;

use super::measured::{Measured, Task};
use super::monitor;
use crate::guest::{Guest, IN_LAB};
use crate::{Error, lab_output};

/// Makes a network, starts the server, and runs its arguments. `passt` needs a default route, and a
/// root file system that it can replace, which an initramfs is not. The cloud kernel of the lab has no
/// `veth` built in: the interface with the default route leads nowhere, and the server has a local
/// address.
const SCRIPT: &str = r#"
set -e
tunctl -t v0 >/dev/null
ip addr add 198.51.100.2/24 dev v0
ip addr add 198.51.100.1/32 dev lo
ip link set v0 up
ip route add default via 198.51.100.3
net serve 198.51.100.1 9000 >/dev/null &
until netstat -lnt | grep -q ':9000 '; do :; done
export MICROAGENT_STATE_DIR=/state MICROAGENT_ENGINE=kvm XDG_RUNTIME_DIR=/run
mkdir /new
exec unshare -m sh -c '
    mount --bind / /new
    for directory in dev proc sys tmp run; do mount --rbind /$directory /new/$directory; done
    cd /new
    mount --move . /
    exec chroot . "$@"' sh "#;

/// Measures our engine `kvm` and QEMU with KVM.
///
/// # Errors
/// When the lab cannot be created, or a measurement in it fails.
pub fn run(task: Task) -> Result<Measured, Error> {
    let programs = microagent_tests::program::for_guests()?;
    let program = programs.path().join("net");
    let guest = monitor::guest(&program, task.amounts)?;
    let layout = Layout::busybox()?;
    let host = microagent_tests::built_kernel::host()?;
    let mut lab = Lab::with_machine(Machine {
        deterministic_clock: true,
        deadline: 2 * task.deadline(),
        ..Machine::default()
    })?;
    lab.microagent()?;
    lab.qemu()?;
    lab.directory(&host.state(), "/state")?;
    lab.directory(layout.directory(), "/layout")?;
    lab.file(&guest.kernel, IN_LAB[0])?;
    lab.file(&guest.initramfs, IN_LAB[1])?;
    lab.program(&program, "/usr/bin/net")?;
    // It starts the other, which is for processors with AVX2.
    for name in ["passt", "passt.avx2"] {
        lab.program(tool::find(name)?, &format!("/usr/bin/{name}"))?;
    }
    let itself = std::env::current_exe().map_err(Error::file("this program"))?;
    lab.program(itself, "/usr/bin/net-bench")?;
    let words = task.words(
        "kvm",
        &Guest::in_lab(),
        "/usr/bin/net".as_ref(),
        "oci:/layout:latest",
    );
    let script = format!("{SCRIPT}net-bench {}\n", words.join(" "));
    lab.step("net", &script, 3600);
    let report = lab.boot()?;
    lab_output::json(&report, "net", "net", "net-bench --inside")
}
