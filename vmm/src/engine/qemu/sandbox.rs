//! QEMU's own seccomp filter: no new processes, no change of user or of scheduling, no obsolete
//! system calls. A QEMU that was built without it, or a kernel without seccomp, refuses the option.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The arguments that install the filter. QEMU has started everything it needs by then.
pub const ARGUMENTS: [&str; 2] = [
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
];

/// A QEMU that only checks its arguments, while the caller prepares the VM.
#[derive(Debug)]
pub struct Check(Child);

impl Check {
    /// Starts the check. QEMU handles its arguments in order and exits at `-version`.
    ///
    /// # Errors
    /// When the process cannot be started; that does not mean that the filter is not supported.
    pub fn start(program: &Path) -> io::Result<Check> {
        let child = Command::new(program)
            .args(ARGUMENTS)
            .arg("-version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Check(child))
    }

    /// Waits for the result: whether the filter is supported.
    pub fn passes(mut self) -> bool {
        self.0.wait().is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_refuses_the_option_runs_without_it() {
        let passes = |program| Check::start(Path::new(program)).map(Check::passes);
        assert!(passes("true").unwrap());
        assert!(!passes("false").unwrap());
        assert!(passes("/no/such/qemu").is_err());
    }

    #[test]
    fn the_installed_qemu_supports_it() {
        // Without QEMU there is nothing to test; other tests report that it is missing.
        if let Ok(program) = super::super::locate() {
            assert!(Check::start(&program).unwrap().passes());
        }
    }
}
