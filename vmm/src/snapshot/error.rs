//! Why a state file cannot be used.

use super::Kind;

/// Why a state file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It does not begin as a state file does.
    #[error("it is not a state file")]
    Magic,
    /// It was written in another format.
    #[error("its format is {0}, which this program does not read")]
    Format(u32),
    /// It is shorter or longer than its header says, or longer than any state file.
    #[error("its length is wrong")]
    Length,
    /// Its content is not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// A section exceeds the file, or its kind is unknown.
    #[error("a section is invalid")]
    Section,
    /// A section occurs twice.
    #[error("two sections of kind {0:?}")]
    Twice(Kind),
    /// A section is missing.
    #[error("a section of kind {0:?} is missing")]
    Missing(Kind),
    /// A section was written by another version of its writer.
    #[error("a section of kind {kind:?} has version {version}")]
    Version {
        /// The section.
        kind: Kind,
        /// Its version.
        version: u16,
    },
    /// A payload does not have the length of what it should be.
    #[error("a section of kind {0:?} has the wrong length")]
    Payload(Kind),
    /// A value cannot be.
    #[error("a section of kind {kind:?} is invalid: {why}")]
    Value {
        /// The section.
        kind: Kind,
        /// Why.
        why: &'static str,
    },
    /// There is a section that nothing has taken.
    #[error("a section of kind {0:?} is left over")]
    Leftover(Kind),
}
