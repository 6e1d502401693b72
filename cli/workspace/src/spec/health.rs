//! Health checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How `supervise` finds out whether the workload works. Exactly one of `exec` and `httpGet` is
/// set; [`Health::check`] returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Health {
    /// A command in the guest, which must exit with 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exec: Vec<String>,
    /// A path, such as `/healthz`, that must be answered with a status of 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<String>,
    /// The guest's port for `httpGet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The time between two checks; default 30.
    #[serde(default = "defaults::interval")]
    pub interval_seconds: u32,
    /// The time for one check; default 5.
    #[serde(default = "defaults::timeout")]
    pub timeout_seconds: u32,
    /// The number of failures in a row after which the workload is unhealthy; default 3.
    #[serde(default = "defaults::retries")]
    pub retries: u32,
    /// The time after a start in which failures do not count; default 0.
    #[serde(default)]
    pub start_period_seconds: u32,
}

mod defaults {
    pub fn interval() -> u32 {
        30
    }
    pub fn timeout() -> u32 {
        5
    }
    pub fn retries() -> u32 {
        3
    }
}

/// One check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check<'a> {
    /// Run a command.
    Exec(&'a [String]),
    /// Fetch a path from a port.
    HttpGet {
        /// The path.
        path: &'a str,
        /// The guest's port.
        port: u16,
    },
}

impl Health {
    /// The check. `None` unless exactly one is set, with all that it needs.
    pub fn check(&self) -> Option<Check<'_>> {
        match (&self.exec[..], &self.http_get, self.port) {
            (argv @ [_, ..], None, None) => Some(Check::Exec(argv)),
            ([], Some(path), Some(port)) if path.starts_with('/') => {
                Some(Check::HttpGet { path, port })
            }
            _ => None,
        }
    }
}
