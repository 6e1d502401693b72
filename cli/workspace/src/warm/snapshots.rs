//! Where the snapshots of idle VMs are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Programs;

/// Where the snapshots of VMs are, and what those VMs consist of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshots {
    /// The store.
    pub store: PathBuf,
    /// The directory of facts about the host, which exists.
    pub host_dir: PathBuf,
    /// The programs of the VMs.
    pub programs: Programs,
}
