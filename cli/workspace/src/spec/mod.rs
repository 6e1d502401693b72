//! The specification of a workspace.
//!
//! One schema is `microagent.yaml`, request JSON and the persisted manifest. All fields are optional
//! here; which of them a command needs, and whether values fit together, is checked when a plan is
//! made of them. Unknown fields are errors. [`Spec::from_yaml`] and [`Spec::from_json`] read a
//! document; their errors name line, field and the nearest known word. docs/spec.md describes every
//! field.

mod entrypoint;
mod env;
mod error;
mod field;
mod file_copy;
mod health;
mod mode;
mod parse;
mod recorded;
mod schema;
mod tolerant;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use entrypoint::Entrypoint;
pub use error::SpecError;
pub use field::Field;
pub use file_copy::FileCopy;
pub use health::{Check, Health};
pub use mode::FileMode;
pub use recorded::{Recorded, RecordedImage, RecordedKernel};
pub use schema::schema;

/// The largest document that is read, in bytes. The environment is most of one, and Linux limits it
/// to 2 MiB together with the arguments.
pub const MAX_DOCUMENT: usize = 4 << 20;

/// The caller's label of a workspace that has none.
pub const DEFAULT_ROLE: &str = "workload";

/// The shell of a workspace that names none.
pub const DEFAULT_SHELL: &str = "/bin/sh";

/// What a workspace is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Spec {
    /// The name: 1 to 63 lowercase letters, digits and hyphens, not starting with a hyphen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A label of the caller, recorded but not interpreted; default `workload`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The image reference, a tag or pinned by digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// An existing ext4 image to boot instead of an OCI image. Relative to the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<PathBuf>,
    /// The kernel to boot instead of the default one. Relative to the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The resource profile: tiny, small, medium or large.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Single values, which override those of the profile.
    #[serde(skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// How long each start may run, in seconds; then the workspace is stopped, and has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// How long it may be without a session and a published connection, in seconds; then it is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// What happens then; default stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_idle: Option<OnIdle>,
    /// When `supervise` starts the workspace again; default never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// What the workspace runs: a shell command, or a list of arguments. Without it the VM idles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Entrypoint>,
    /// Run the image's own entrypoint and command.
    #[serde(skip_serializing_if = "is_false")]
    pub image_command: bool,
    /// The shell of `connect`, a path in the guest; default `/bin/sh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// The guest's host name; default the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Shell commands to run before the first start, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    /// Environment variables, added to those of the image.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", with = "env")]
    #[schemars(with = "BTreeMap<String, env::Value>")]
    pub env: BTreeMap<String, String>,
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// The proxy of the guest's programs: its URL, or `host` for what the environment of `create` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Files with certificates, in PEM, of authorities that the guest trusts. Relative to the document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certs: Vec<PathBuf>,
    /// Existing ext4 disks to attach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Disks to build from tar archives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<Disk>,
    /// Files and directories of the guest to collect when the workload has ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputPath>,
    /// Files to write into the root file system before the first start.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "file_copy::list"
    )]
    #[schemars(with = "Vec<FileCopy>")]
    pub files: Vec<FileCopy>,
    /// A TCP server of the host that the guest reaches over vsock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mediation: Option<Mediation>,
    /// How `supervise` finds out whether the workload works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// What `create` resolved. Only in manifests; a request with it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<Recorded>,
}

/// The size of a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory in MiB.
    #[serde(rename = "memoryMiB", skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// The number of CPUs, 1 to 64.
    #[serde(rename = "cpuCount", skip_serializing_if = "Option::is_none")]
    pub cpu_count: Option<u32>,
    /// The size of the root disk in MiB.
    #[serde(rename = "sizeMiB", skip_serializing_if = "Option::is_none")]
    pub size_mib: Option<u64>,
}

impl Resources {
    /// Whether no value is set.
    pub fn is_empty(&self) -> bool {
        *self == Resources::default()
    }
}

/// When a workspace that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// After it failed.
    OnFailure,
    /// After it failed or stopped; not after `halt`.
    Always,
}

/// What happens to a workspace that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnIdle {
    /// It is stopped.
    Stop,
    /// It is saved with its memory, and goes on when it is used.
    Suspend,
}

/// The network of a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// The mode; default user.
    pub mode: NetworkMode,
    /// The host's bridge, for mode bridged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// What the guest may send, in order; the first rule that matches decides, and what none matches
    /// is refused. Without it, everything is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
    /// Ports of the host that are forwarded to the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

/// How a workspace is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Through a user process of the host.
    #[default]
    User,
    /// Through the host's kernel, with an address of its own.
    Nat,
    /// Not at all, except for loopback.
    Isolated,
    /// On an existing bridge.
    Bridged,
}

impl NetworkMode {
    /// The word for it on the command line and in documents.
    pub fn name(self) -> &'static str {
        match self {
            NetworkMode::User => "user",
            NetworkMode::Nat => "nat",
            NetworkMode::Isolated => "isolated",
            NetworkMode::Bridged => "bridged",
        }
    }

    /// The mode with this name.
    pub fn from_name(name: &str) -> Option<NetworkMode> {
        [Self::User, Self::Nat, Self::Isolated, Self::Bridged]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// A port of the host that is forwarded to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Forward {
    /// The address to listen on; default `127.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port to listen on.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// The protocol; default tcp.
    #[serde(default)]
    pub protocol: Protocol,
}

/// The protocol of a forwarded port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
}

/// A disk, from an image or from a tar archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// The file. Relative to the document.
    pub path: PathBuf,
    /// Its mount point in the guest, an absolute path.
    pub mountpoint: String,
    /// Whether the guest may write to it; default ro.
    #[serde(default)]
    pub mode: Access,
}

/// Whether a guest may write to a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read-only.
    #[default]
    Ro,
    /// Read-write.
    Rw,
}

/// A path of the guest to collect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputPath {
    /// Its name.
    pub name: String,
    /// An absolute path in the guest.
    pub path: String,
}

/// A TCP server of the host that the guest reaches on a vsock port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mediation {
    /// The vsock port on which the guest connects to the host (CID 2).
    pub port: u32,
    /// The server, `HOST:PORT`.
    pub target: String,
    /// Refuse to start while the server cannot be reached; default true.
    #[serde(default = "default_true")]
    pub required: bool,
}

fn default_true() -> bool {
    true
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of `create`'s documentation.
    const EXAMPLE: &str = "\
name: research
image: docker.io/library/ubuntu:24.04
profile: medium
restart: on-failure
entrypoint: /app/start.sh
shell: /bin/bash
hostname: research
setup:
  - mkdir -p /workspace
  - echo ready > /workspace/status
env:
  MICROAGENT_NAME: research
resources:
  memoryMiB: 2048
  cpuCount: 2
  sizeMiB: 8192
network:
  mode: nat
  forwards:
    - host: 127.0.0.1
      hostPort: 8080
      guestPort: 80
      protocol: tcp
disks:
  - name: workspace
    path: /tmp/workspace.ext4
    mountpoint: /workspace
    mode: rw
";

    #[test]
    fn the_documented_example_is_read_as_it_says() {
        let expected = Spec {
            name: Some("research".into()),
            image: Some("docker.io/library/ubuntu:24.04".into()),
            profile: Some("medium".into()),
            restart: Some(Restart::OnFailure),
            entrypoint: Some(Entrypoint::Shell("/app/start.sh".into())),
            shell: Some("/bin/bash".into()),
            hostname: Some("research".into()),
            setup: vec![
                "mkdir -p /workspace".into(),
                "echo ready > /workspace/status".into(),
            ],
            env: [("MICROAGENT_NAME".into(), "research".into())].into(),
            resources: Resources {
                memory_mib: Some(2048),
                cpu_count: Some(2),
                size_mib: Some(8192),
            },
            network: Some(Network {
                mode: NetworkMode::Nat,
                egress: None,
                interface: None,
                forwards: vec![Forward {
                    host: Some("127.0.0.1".into()),
                    host_port: 8080,
                    guest_port: 80,
                    protocol: Protocol::Tcp,
                }],
            }),
            disks: vec![Disk {
                name: "workspace".into(),
                path: "/tmp/workspace.ext4".into(),
                mountpoint: "/workspace".into(),
                mode: Access::Rw,
            }],
            ..Spec::default()
        };
        let spec = Spec::from_yaml(EXAMPLE).unwrap();
        assert_eq!(spec, expected);
        // The manifest is request JSON, and JSON is YAML.
        let json = spec.to_json();
        assert_eq!(Spec::from_json(&json).unwrap(), expected);
        assert_eq!(Spec::from_yaml(&json).unwrap(), expected);
    }

    #[test]
    fn an_empty_document_sets_nothing_and_nothing_is_written_for_it() {
        for text in ["", "# nothing\n", "{}", "---\n"] {
            assert_eq!(Spec::from_yaml(text).unwrap(), Spec::default(), "{text:?}");
        }
        assert_eq!(Spec::default().to_json(), "{}\n");
    }
}
