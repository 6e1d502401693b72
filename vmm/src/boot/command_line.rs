//! The guest kernel's command line, the same for every engine.

use super::BootError;
use super::layout::COMMAND_LINE_MAX;

/// The guest kernel's command line. What every VM gets, with the reason for each word:
///
/// | word | why |
/// |---|---|
/// | `console=ttyS0` | where a panic can be read |
/// | `quiet` | each console character is an exit from the guest; left out when it is watched |
/// | `panic=-1` | a panic resets at once, which ends the VM |
/// | `reboot=acpi` | a reset goes through the ACPI reset register and nothing else is probed |
/// | `rdinit=/init` | the agent, in the initramfs |
/// | `random.trust_cpu=on` | the pool is ready without waiting for interrupts |
/// | `tsc=reliable` | the host vouches for it: no watchdog, no warm-up comparison |
/// | `8250.nr_uarts=1` | one port is there, three more need not be looked for |
/// | `pci=off` | there is no PCI bus to look for |
/// | `cryptomgr.notests` | the kernel's build was tested before; more than half of a boot otherwise |
/// | `i8042.noaux …` | there is no keyboard controller: do not wait for one |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// The words above; `watched` leaves out `quiet`.
    pub fn new(watched: bool) -> CommandLine {
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
        ]
        .map(String::from)
        .into();
        if !watched {
            words.push("quiet".into());
        }
        CommandLine { words }
    }

    /// Adds the words of `extra` after our own, so that the last of two wins.
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

    /// As text, without the final NUL.
    pub fn text(&self) -> String {
        self.words.join(" ")
    }

    /// As the kernel reads it, with the final NUL.
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
    fn extra_words_come_last() {
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
