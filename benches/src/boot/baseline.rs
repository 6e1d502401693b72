//! What a boot cost when it was last looked at, and whether it costs more now.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::perf::Perf;
use crate::Error;

/// By how much a boot may grow unseen.
pub const TOLERANCE: f64 = 0.03;

/// A stored measurement: the deterministic clock's time, so that a millisecond is a million
/// instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// The kernel's release.
    pub kernel: Option<String>,
    /// From before the process to the first byte of the command's output, in milliseconds.
    pub to_first_output_millis: f64,
}

/// What a comparison comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Within the tolerance, or less.
    Fine,
    /// Less by more than the tolerance: the baseline can be lowered.
    Better,
    /// More by more than the tolerance.
    Worse,
}

impl Baseline {
    /// What `perf` says; `None` when its command printed nothing.
    pub fn of(perf: &Perf) -> Option<Baseline> {
        Some(Baseline {
            kernel: perf.kernel.version.clone(),
            to_first_output_millis: perf.whole.to_first_output_millis?.median,
        })
    }

    /// Reads a stored one.
    ///
    /// # Errors
    /// When the file cannot be read or is none.
    pub fn read(path: &Path) -> Result<Baseline, Error> {
        let bytes = fs::read(path).map_err(Error::file(path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Answer {
            command: path.display().to_string(),
            source,
        })
    }

    /// Stores it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let json =
            serde_json::to_string_pretty(self).map_err(|error| Error::file(path)(error.into()))?;
        fs::write(path, json + "\n").map_err(Error::file(path))
    }

    /// How `now` is beside this one.
    pub fn compare(&self, now: &Baseline) -> Verdict {
        let ratio = now.to_first_output_millis / self.to_first_output_millis;
        if ratio > 1.0 + TOLERANCE {
            Verdict::Worse
        } else if ratio < 1.0 - TOLERANCE {
            Verdict::Better
        } else {
            Verdict::Fine
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline(to_first_output_millis: f64) -> Baseline {
        Baseline {
            kernel: None,
            to_first_output_millis,
        }
    }

    #[test]
    fn three_per_cent_more_is_worse() {
        let stored = baseline(100.0);
        assert_eq!(stored.compare(&baseline(102.9)), Verdict::Fine);
        assert_eq!(stored.compare(&baseline(103.1)), Verdict::Worse);
        assert_eq!(stored.compare(&baseline(97.1)), Verdict::Fine);
        assert_eq!(stored.compare(&baseline(96.9)), Verdict::Better);
    }
}
