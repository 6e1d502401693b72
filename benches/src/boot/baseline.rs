//! Stored boot times, to detect regressions.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::perf::Perf;
use crate::Error;

/// The relative change that counts as unchanged.
pub const TOLERANCE: f64 = 0.03;

/// A stored measurement with the deterministic clock: a millisecond is a million instructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    /// The kernel release.
    pub kernel: Option<String>,
    /// Time from before the process start to the command's first byte of output, in milliseconds.
    pub to_first_output_millis: f64,
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Within the tolerance.
    Fine,
    /// Lower by more than the tolerance: the baseline can be lowered.
    Better,
    /// Higher by more than the tolerance.
    Worse,
}

impl Baseline {
    /// The baseline of a measurement; `None` when the command printed nothing.
    pub fn of(perf: &Perf) -> Option<Baseline> {
        Some(Baseline {
            kernel: perf.kernel.version.clone(),
            to_first_output_millis: perf.whole.to_first_output_millis?.median,
        })
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// When the file cannot be read or is not a baseline.
    pub fn read(path: &Path) -> Result<Baseline, Error> {
        let bytes = fs::read(path).map_err(Error::file(path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Parse {
            what: path.display().to_string(),
            source,
        })
    }

    /// Writes the baseline.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let json =
            serde_json::to_string_pretty(self).map_err(|error| Error::file(path)(error.into()))?;
        fs::write(path, json + "\n").map_err(Error::file(path))
    }

    /// Compares a new measurement with this baseline.
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
    fn more_than_three_per_cent_is_a_change() {
        let stored = baseline(100.0);
        assert_eq!(stored.compare(&baseline(102.9)), Verdict::Fine);
        assert_eq!(stored.compare(&baseline(103.1)), Verdict::Worse);
        assert_eq!(stored.compare(&baseline(97.1)), Verdict::Fine);
        assert_eq!(stored.compare(&baseline(96.9)), Verdict::Better);
    }
}
