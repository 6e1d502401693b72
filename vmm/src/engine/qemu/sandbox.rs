//! QEMU's own seccomp filter: no new processes, no change of user or of scheduling, no obsolete
//! system calls. A QEMU that was built without it, or a kernel without seccomp, refuses the option.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The arguments that install the filter. QEMU has started everything it needs by then.
pub const ARGUMENTS: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// A QEMU that only checks its arguments, while the caller prepares the VM.
#[derive(Debug)]
pub struct Check(Option<Child>);

impl Check {
    /// Starts the check. QEMU handles its arguments in order and exits at `-version`.
    pub fn start(program: &Path) -> Check {
        let child = Command::new(program)
            .args(ARGUMENTS)
            .arg("-version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Check(child.ok())
    }

    /// Waits for the result: whether the filter is supported.
    pub fn passes(self) -> bool {
        let result = self.0.map(|mut child| child.wait());
        matches!(result, Some(Ok(status)) if status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_refuses_the_option_runs_without_it() {
        for (program, passes) in [("true", true), ("false", false), ("/no/such/qemu", false)] {
            assert_eq!(
                Check::start(Path::new(program)).passes(),
                passes,
                "{program}"
            );
        }
    }

    #[test]
    fn the_installed_qemu_supports_it() {
        // Without QEMU there is nothing to test; other tests report that it is missing.
        if let Ok(program) = super::super::locate() {
            assert!(Check::start(&program).passes());
        }
    }
}
