//! Why a document is not a specification.

use std::fmt;

/// The least similarity of two words (Jaro) for the one to be taken for the other misspelt, as in
/// command lines.
const SIMILAR: f64 = 0.8;

/// A document that cannot be read. [`Display`](fmt::Display) has no file name: the caller puts it
/// before the line, as in `microagent.yaml:12: unknown field "memory"; did you mean memoryMiB?`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    /// The line, counted from 1; 0 if it is not known.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "{line}: {}", self.message),
        }
    }
}

/// An unknown field or value, and the known one that is nearest, or all if there are few.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let compared = word.to_lowercase();
    let similarity = |known: &str| {
        let known = known.to_lowercase();
        // `memory` is nearer to memoryMiB than to any other word of its length.
        let prefix =
            word.len() >= 3 && (known.starts_with(&compared) || compared.starts_with(&known));
        if prefix {
            1.0
        } else {
            strsim::jaro(&compared, &known)
        }
    };
    let nearest = (known.iter())
        .map(|known| (similarity(known), known))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    match (nearest, known) {
        (Some((_, nearest)), _) => format!("unknown {what} {word:?}; did you mean {nearest}?"),
        (None, []) => format!("unknown {what} {word:?}"),
        (None, known) => format!("unknown {what} {word:?}; use one of {}", known.join(", ")),
    }
}
