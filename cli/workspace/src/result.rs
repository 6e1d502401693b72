//! How a workload ended: `result.json`.

use std::fs;
use std::io;
use std::path::Path;

use microagent_proto::agent::Exited;
use serde::{Deserialize, Serialize};

use crate::log::replace;

/// How a workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadResult {
    /// When it was executed, as RFC 3339 in UTC.
    pub started_at: String,
    /// When it ended.
    pub completed_at: String,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// Whether the guest killed a process for lack of memory meanwhile.
    pub out_of_memory: bool,
}

impl WorkloadResult {
    /// The result of a workload.
    pub fn new(started_at: String, completed_at: String, exited: Exited) -> WorkloadResult {
        WorkloadResult {
            started_at,
            completed_at,
            exit_code: exited.code,
            signal: exited.signal,
            out_of_memory: exited.out_of_memory,
        }
    }

    /// How its process ended.
    pub fn exited(&self) -> Exited {
        Exited {
            code: self.exit_code,
            signal: self.signal,
            out_of_memory: self.out_of_memory,
        }
    }

    /// Whether it ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.exit_code == Some(0)
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(path, &text)
    }

    /// The result in `path`; `None` if no workload has ended.
    ///
    /// # Errors
    /// Those of the file system, and a file that is not a result.
    pub fn read(path: &Path) -> io::Result<Option<WorkloadResult>> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
