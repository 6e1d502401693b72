//! What `create` resolved, in the manifest of a workspace. Digests are `sha256:…`.

use std::collections::BTreeMap;
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
    /// The image; absent if it was made from a root file system of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<RecordedImage>,
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
    /// Environment variables that follow from `proxy` and `caCerts`; those of `env` override them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// The certificates in the files of `caCerts`, in PEM, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_certs: Vec<String>,
    /// The supervisor program to use instead of the installed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<PathBuf>,
}

impl Recorded {
    /// Environment variables of the image, as `NAME=value`.
    pub fn env(&self) -> &[String] {
        self.image.as_ref().map_or(&[], |image| &image.env)
    }

    /// The working directory of its commands; empty means the root.
    pub fn working_dir(&self) -> &str {
        self.image.as_ref().map_or("", |image| &image.working_dir)
    }

    /// The user of its commands; empty means root.
    pub fn user(&self) -> &str {
        self.image.as_ref().map_or("", |image| &image.user)
    }

    /// The signal for a graceful stop, if its image defines one.
    pub fn stop_signal(&self) -> Option<&str> {
        self.image.as_ref()?.stop_signal.as_deref()
    }
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
