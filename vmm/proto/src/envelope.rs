//! The version envelope, which precedes every typed message of the three links.
//!
//! Layout, 8 bytes: [`MAGIC`], then the protocol version as a little-endian `u32`. It is the one
//! part of the protocol that never changes, so that programs of any two versions can tell each
//! other's version before they parse anything else:
//!
//! - control socket: each packet starts with it;
//! - streams (the agent's report and agent sessions): the first bytes of each direction. Here the
//!   versions may differ ([`accept`]).
//!
//! Versions up to 3 had no envelope. No message of theirs starts with [`MAGIC`]: frames start with
//! a small number, control packets with a JSON character.

use crate::{OLDEST, VERSION};

/// The first bytes of an envelope.
pub const MAGIC: [u8; 4] = *b"\x7fuVM";

/// The length of an envelope, in bytes.
pub const LENGTH: usize = 8;

/// A program of a running VM, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The command line.
    CommandLine,
    /// The process that runs the VM.
    Supervisor,
    /// PID 1 of the guest.
    Agent,
}

impl Program {
    /// The name of its executable.
    pub fn name(self) -> &'static str {
        match self {
            Program::CommandLine => "microagent",
            Program::Supervisor => "microagent-supervisor",
            Program::Agent => "microagent-guest",
        }
    }
}

/// Two programs use different versions of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "protocol mismatch: {} uses version {VERSION}, {} {}",
    .us.name(), .peer.name(), describe(*.version)
)]
pub struct Mismatch {
    /// This program, which uses [`VERSION`].
    pub us: Program,
    /// The other program.
    pub peer: Program,
    /// The version of the other program; `None` if it sent no envelope.
    pub version: Option<u32>,
}

impl Mismatch {
    /// What the user can do about it.
    pub fn remediation(&self) -> String {
        let other = match self.us {
            Program::CommandLine => self.peer,
            _ if self.peer == Program::CommandLine => self.us,
            _ => Program::Agent,
        };
        format!(
            "use the {} of the same installation as microagent",
            other.name()
        )
    }
}

fn describe(version: Option<u32>) -> String {
    match version {
        Some(version) => format!("version {version}"),
        None => "version 3 or older".to_owned(),
    }
}

/// The envelope of a program that uses `version`; [`VERSION`] in all programs, other numbers in
/// tests.
pub fn envelope(version: u32) -> [u8; LENGTH] {
    let [a, b, c, d] = MAGIC;
    let [e, f, g, h] = version.to_le_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The bytes after the envelope.
///
/// # Errors
/// The envelope is missing, or its version is not [`VERSION`].
pub fn open(bytes: &[u8], us: Program, peer: Program) -> Result<&[u8], Mismatch> {
    let mismatch = |version| Mismatch { us, peer, version };
    match split(bytes).ok_or(mismatch(None))? {
        (VERSION, rest) => Ok(rest),
        (other, _) => Err(mismatch(Some(other))),
    }
}

/// The version in the envelope `bytes`, if it is understood.
///
/// # Errors
/// The envelope is missing, or its version is below [`OLDEST`](crate::OLDEST).
pub fn accept(bytes: &[u8], us: Program, peer: Program) -> Result<u32, Mismatch> {
    let mismatch = |version| Mismatch { us, peer, version };
    match split(bytes).ok_or(mismatch(None))? {
        (version, _) if version >= OLDEST => Ok(version),
        (older, _) => Err(mismatch(Some(older))),
    }
}

/// The version in the envelope, and the bytes after it. `None` without an envelope.
pub fn split(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (version, rest) = bytes.strip_prefix(&MAGIC)?.split_first_chunk()?;
    Some((u32::from_le_bytes(*version), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<&[u8], Mismatch> {
        open(bytes, Program::CommandLine, Program::Supervisor)
    }

    #[test]
    fn the_layout_is_fixed() {
        assert_eq!(envelope(0x0102_0304), *b"\x7fuVM\x04\x03\x02\x01");
    }

    #[test]
    fn the_body_of_the_same_version_is_returned() {
        let mut message = envelope(VERSION).to_vec();
        assert_eq!(check(&message), Ok(&b""[..]));
        message.extend(b"{}");
        assert_eq!(check(&message), Ok(&b"{}"[..]));
    }

    #[test]
    fn a_mismatch_names_both_versions() {
        for (bytes, expected) in [
            (
                envelope(VERSION + 1).to_vec(),
                format!("version {}", VERSION + 1),
            ),
            (
                envelope(VERSION - 1).to_vec(),
                format!("version {}", VERSION - 1),
            ),
            (
                br#"{"start":{"version":3}}"#.to_vec(),
                "version 3 or older".into(),
            ),
            (MAGIC.to_vec(), "version 3 or older".into()),
            (Vec::new(), "version 3 or older".into()),
        ] {
            assert_eq!(
                check(&bytes).unwrap_err().to_string(),
                format!(
                    "protocol mismatch: microagent uses version {VERSION}, \
                     microagent-supervisor {expected}"
                )
            );
        }
    }

    #[test]
    fn the_remediation_names_the_program_to_replace() {
        use Program::{Agent, CommandLine, Supervisor};
        for (us, peer, expected) in [
            (CommandLine, Supervisor, "microagent-supervisor"),
            (Supervisor, CommandLine, "microagent-supervisor"),
            (Supervisor, Agent, "microagent-guest"),
            (CommandLine, Agent, "microagent-guest"),
            (Agent, CommandLine, "microagent-guest"),
        ] {
            let mismatch = Mismatch {
                us,
                peer,
                version: None,
            };
            assert_eq!(
                mismatch.remediation(),
                format!("use the {expected} of the same installation as microagent")
            );
        }
    }
}
