//! The network in which the measurements run, on this host: two network namespaces of the
//! benchmark's own, so that nothing leaves the machine.
//!
//! ```text
//!  guest ── passt ── v0 198.51.100.2 ─── v1 198.51.100.1  net serve
//! ```

use microagent_tests::{image::Layout, tool};

use super::measured::{Measured, Task};
use super::monitor;
use crate::Error;

/// Starts the server `$1` in the namespace of the peers, and runs the other arguments in that of the
/// monitors.
const SCRIPT: &str = r#"
peer "$1" serve 198.51.100.1 9000 >/dev/null &
listens 9000
shift
exec "$@"
"#;

/// Measures on this host, without KVM, with the kernel of `kernel build`. Needs root.
///
/// # Errors
/// When a tool is missing, or a measurement fails.
pub fn run(task: Task) -> Result<Measured, Error> {
    for program in ["passt", "ip", "nsenter", "busybox"] {
        tool::find(program)?;
    }
    let programs = microagent_tests::program::for_guests()?;
    let program = programs.path().join("net");
    let guest = monitor::guest(&program, task.amounts)?;
    let layout = Layout::busybox()?;
    let host = microagent_tests::built_kernel::host()?;
    let itself = std::env::current_exe().map_err(Error::file("this program"))?;
    let mut inside = host.shell_in_namespaces(SCRIPT);
    inside.argument("sh").argument(&program).argument(itself);
    for word in task.words("qemu", &guest, &program, &layout.reference("latest")) {
        inside.argument(word);
    }
    let finished = inside
        .variable("MICROAGENT_ENGINE", "qemu")
        .deadline(task.deadline())
        .finish();
    if finished.code != Some(0) {
        return Err(Error::Invalid {
            what: "net",
            why: finished.errors(),
        });
    }
    serde_json::from_slice(&finished.stdout).map_err(|source| Error::Parse {
        what: "the output of net-bench --inside".into(),
        source,
    })
}
