//! The guest kernel's command line, common to all engines.

use super::BootError;
use super::layout::COMMAND_LINE_MAX;

/// The guest kernel's command line. The parameters of every VM:
///
/// | parameter | reason |
/// |---|---|
/// | `console=ttyS0` | makes panics visible |
/// | `quiet` | each console character is a VM exit; omitted when the console is shown |
/// | `panic=-1` | a panic resets at once, which ends the VM |
/// | `reboot=acpi` | resets through the ACPI reset register, without probing other methods |
/// | `rdinit=/init` | starts the agent from the initramfs |
/// | `random.trust_cpu=on` | initializes the entropy pool without waiting for interrupts |
/// | `tsc=reliable` | the host guarantees it: no watchdog, no comparison with other clocks |
/// | `8250.nr_uarts=1` | there is one serial port; do not probe three more |
/// | `pci=off` | there is no PCI bus; do not probe it |
/// | `cryptomgr.notests` | skips the crypto self-tests, which take more than half of a boot |
/// | `i8042.noaux …` | there is no keyboard controller; do not wait for one |
/// | `vsyscall=emulate` | static programs linked with a glibc older than 2.14 call `time` and `gettimeofday` at fixed addresses; kernels that are built without this fallback kill them with SIGSEGV |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// The parameters above. `console_shown` omits `quiet`.
    pub fn new(console_shown: bool) -> CommandLine {
        let mut words: Vec<String> = [
            "console=ttyS0",
            "panic=-1",
            "reboot=acpi",
            "rdinit=/init",
            "random.trust_cpu=on",
            "tsc=reliable",
            "8250.nr_uarts=1",
            "pci=off",
            "cryptomgr.notests",
            "i8042.noaux",
            "i8042.nomux",
            "i8042.nopnp",
            "i8042.dumbkbd",
            "vsyscall=emulate",
        ]
        .map(String::from)
        .into();
        if !console_shown {
            words.push("quiet".into());
        }
        CommandLine { words }
    }

    /// Appends the parameters in `extra`. They override earlier ones: the kernel uses the last
    /// value.
    #[must_use]
    pub fn with_extra(mut self, extra: Option<&str>) -> CommandLine {
        self.words.extend(
            extra
                .iter()
                .flat_map(|extra| extra.split_ascii_whitespace())
                .map(String::from),
        );
        self
    }

    /// The text, without the final NUL.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// The bytes to be placed in guest memory, with the final NUL.
    ///
    /// # Errors
    /// [`BootError::CommandLineTooLong`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, BootError> {
        let mut bytes = self.text().into_bytes();
        bytes.retain(|&byte| byte != 0);
        bytes.push(0);
        if bytes.len() > COMMAND_LINE_MAX {
            return Err(BootError::CommandLineTooLong {
                length: bytes.len() - 1,
                limit: COMMAND_LINE_MAX - 1,
            });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_parameters_are_appended() {
        let line = CommandLine::new(false).with_extra(Some(" a=1  b "));
        assert!(line.text().ends_with(" quiet a=1 b"), "{}", line.text());
    }

    #[test]
    fn a_line_beyond_the_limit_is_refused() {
        let line = CommandLine::new(true).with_extra(Some(&"x".repeat(COMMAND_LINE_MAX)));
        assert!(matches!(
            line.to_bytes(),
            Err(BootError::CommandLineTooLong { limit: 2047, .. })
        ));
    }
}
