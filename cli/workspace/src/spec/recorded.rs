//! What `create` resolved, in the manifest of a workspace. Digests are `sha256:…`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a workspace consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recorded {
    /// The identity of the workspace; a new one for each `create`.
    pub runtime_id: String,
    /// When it was created, as RFC 3339 in UTC.
    pub created_at: String,
    /// The image.
    pub image: RecordedImage,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u64,
    /// The number of CPUs.
    pub cpu_count: u32,
    /// The root file system below what the guest writes: the digest of its chunk map.
    pub rootfs: String,
    /// The kernel.
    pub kernel: RecordedKernel,
    /// The initramfs.
    pub initramfs: String,
    /// The disks of the bundles, in their order: the digests of their chunk maps.
    pub bundles: Vec<String>,
    /// What it runs; empty if the VM idles.
    pub argv: Vec<String>,
    /// The supervisor program to use instead of the installed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<PathBuf>,
}

/// The image of a workspace, and how it is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedImage {
    /// The reference in its full form.
    pub reference: String,
    /// The same, pinned by digest.
    pub resolved: String,
    /// The digest of the manifest for this platform.
    pub digest: String,
    /// Environment variables, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; empty means the root.
    pub working_dir: String,
    /// The user; empty means root.
    pub user: String,
    /// The signal for a graceful stop, if the image defines one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// The kernel of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordedKernel {
    /// The digest of its image.
    pub digest: String,
    /// The disk with its modules: the digest of the chunk map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules_disk: Option<String>,
}
