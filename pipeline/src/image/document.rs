//! The documents of images as types: their fields as the Go types that other tools read them into
//! (`github.com/opencontainers/image-spec/specs-go/v1`). Fields that are not used are decoded
//! too, because their type decides whether the document is valid.

use std::collections::BTreeMap;

use serde::Deserializer;

use super::go_json::{Decode, Empty, Fields, Present, Time};

/// `v1.Descriptor`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    /// In bytes; negative in some invalid documents.
    pub(crate) size: i64,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) platform: Option<Platform>,
}

impl Fields for Descriptor {
    const NAMES: &'static [&'static str] = &[
        "mediaType",
        "digest",
        "size",
        "urls",
        "annotations",
        "platform",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "mediaType" => self.media_type.decode(input),
            "digest" => self.digest.decode(input),
            "size" => self.size.decode(input),
            "annotations" => self.annotations.decode(input),
            "platform" => self.platform.decode(input),
            _ => Vec::<String>::new().decode(input),
        }
    }
}

/// `v1.Platform`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    pub(crate) variant: String,
}

impl Fields for Platform {
    const NAMES: &'static [&'static str] =
        &["architecture", "os", "os.version", "os.features", "variant"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "architecture" => self.architecture.decode(input),
            "os" => self.os.decode(input),
            "variant" => self.variant.decode(input),
            "os.features" => Vec::<String>::new().decode(input),
            _ => String::new().decode(input),
        }
    }
}

/// `v1.Index` and Docker's manifest list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

impl Fields for Index {
    const NAMES: &'static [&'static str] = &["manifests"];

    fn field<'de, D: Deserializer<'de>>(&mut self, _: &str, input: D) -> Result<(), D::Error> {
        self.manifests.decode(input)
    }
}

/// `v1.Manifest` and Docker's manifest of schema 2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Empty if the document does not name it.
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An index or a manifest, before it is known which.
#[derive(Debug, Default)]
pub(crate) struct AnyManifest {
    pub(crate) schema_version: i64,
    pub(crate) media_type: String,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Option<Vec<Descriptor>>,
    pub(crate) manifests: Option<Vec<Descriptor>>,
    /// Of schema 1.
    pub(crate) fs_layers: Present,
}

impl Fields for AnyManifest {
    const NAMES: &'static [&'static str] = &[
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "fsLayers",
        "annotations",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "schemaVersion" => self.schema_version.decode(input),
            "mediaType" => self.media_type.decode(input),
            "config" => self.config.decode(input),
            "layers" => self.layers.decode(input),
            "manifests" => self.manifests.decode(input),
            "fsLayers" => self.fs_layers.decode(input),
            _ => BTreeMap::<String, String>::new().decode(input),
        }
    }
}

/// `v1.Image`: a configuration.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pub(crate) architecture: String,
    pub(crate) variant: String,
    pub(crate) os: String,
    pub(crate) config: ImageConfig,
    pub(crate) rootfs: RootFs,
}

impl Fields for Configuration {
    const NAMES: &'static [&'static str] = &[
        "created",
        "author",
        "architecture",
        "variant",
        "os",
        "os.version",
        "os.features",
        "config",
        "rootfs",
        "history",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "architecture" => self.architecture.decode(input),
            "variant" => self.variant.decode(input),
            "os" => self.os.decode(input),
            "config" => self.config.decode(input),
            "rootfs" => self.rootfs.decode(input),
            "created" => Time.decode(input),
            "os.features" => Vec::<String>::new().decode(input),
            "history" => Vec::<History>::new().decode(input),
            _ => String::new().decode(input),
        }
    }
}

/// `v1.RootFS`
#[derive(Debug, Default)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

impl Fields for RootFs {
    const NAMES: &'static [&'static str] = &["type", "diff_ids"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "diff_ids" => self.diff_ids.decode(input),
            _ => String::new().decode(input),
        }
    }
}

/// `v1.History`
#[derive(Debug, Default)]
struct History;

impl Fields for History {
    const NAMES: &'static [&'static str] =
        &["created", "created_by", "author", "comment", "empty_layer"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "created" => Time.decode(input),
            "empty_layer" => false.decode(input),
            _ => String::new().decode(input),
        }
    }
}

/// How to run the image: the `config` part of its configuration (`v1.ImageConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment variables, as `NAME=value`.
    pub env: Vec<String>,
    /// The working directory; empty means the root.
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`, …; empty means root.
    pub user: String,
    /// The prefix of every command.
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    pub cmd: Vec<String>,
    /// The signal for a graceful stop, if the image defines one.
    pub stop_signal: Option<String>,
}

impl Fields for ImageConfig {
    const NAMES: &'static [&'static str] = &[
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "ArgsEscaped",
    ];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "User" => self.user.decode(input),
            "Env" => self.env.decode(input),
            "Entrypoint" => self.entrypoint.decode(input),
            "Cmd" => self.cmd.decode(input),
            "WorkingDir" => self.working_dir.decode(input),
            "Labels" => BTreeMap::<String, String>::new().decode(input),
            "StopSignal" => {
                let mut signal = self.stop_signal.take().unwrap_or_default();
                let decoded = signal.decode(input);
                self.stop_signal = Some(signal).filter(|signal| !signal.is_empty());
                decoded
            }
            "ArgsEscaped" => false.decode(input),
            // ExposedPorts, Volumes
            _ => BTreeMap::<String, Empty>::new().decode(input),
        }
    }
}
