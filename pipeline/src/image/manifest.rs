//! The documents of an image: index, manifest, configuration. Pure parsing.
//!
//! OCI and Docker schema 2 differ only in media types; schema 1 is detected and
//! rejected. An index is resolved to this machine's platform.

use microagent_cas::Digest;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// The maximum size of an index, a manifest or a configuration, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// The maximum depth of nested indexes.
pub(crate) const MAX_NESTING: usize = 4;

/// The platform of images, in OCI terms: operating system and architecture.
pub const PLATFORM: (&str, &str) = ("linux", "amd64");

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1";

/// A layer, as described by the manifest and the configuration together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The blob as distributed.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The uncompressed tar.
    pub diff_id: Digest,
    /// The media type in the manifest.
    pub media_type: String,
}

impl LayerDescriptor {
    /// Whether the layer may be hosted elsewhere than the image (as Windows base
    /// layers are).
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

/// How to run the image: the `config` part of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// Environment variables, as `NAME=value`.
    #[serde(deserialize_with = "list")]
    pub env: Vec<String>,
    /// The working directory; empty means the root.
    #[serde(deserialize_with = "text")]
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`, …; empty means root.
    #[serde(deserialize_with = "text")]
    pub user: String,
    /// The prefix of every command.
    #[serde(deserialize_with = "list")]
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    #[serde(deserialize_with = "list")]
    pub cmd: Vec<String>,
    /// The signal for a graceful stop, if the image defines one.
    pub stop_signal: Option<String>,
}

/// Docker writes `null` for empty values.
fn list<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn text<'de, D: serde::Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// The used parts of an image configuration. The type of `oci-spec` is not used
/// because it rejects valid configurations of Docker over unused fields.
#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default, deserialize_with = "text")]
    architecture: String,
    #[serde(default, deserialize_with = "text")]
    os: String,
    config: Option<ImageConfig>,
    rootfs: RootfsDocument,
}

#[derive(Debug, Deserialize)]
struct RootfsDocument {
    #[serde(default, deserialize_with = "list")]
    diff_ids: Vec<String>,
}

/// Why an image's documents cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum ManifestError {
    #[error("the {what} of {image} is not valid: {reason}")]
    Malformed {
        image: String,
        what: &'static str,
        reason: String,
    },
    #[error("image {image} has a manifest in Docker schema 1, which is not supported")]
    Schema1 { image: String },
    #[error("{image} is not a container image but {media_type}")]
    NotAnImage { image: String, media_type: String },
    #[error("image {image} is for {}; this machine runs {}/{}", available.join(", "), PLATFORM.0, PLATFORM.1)]
    Platform {
        image: String,
        available: Vec<String>,
    },
    #[error("the {what} of {image}: digest mismatch: expected {expected}, got {actual}")]
    WrongBytes {
        image: String,
        what: &'static str,
        expected: Digest,
        actual: Digest,
    },
    #[error("layer {layer} of {image} has the unsupported media type {media_type}")]
    LayerType {
        layer: Digest,
        image: String,
        media_type: String,
    },
    #[error("the indexes of {image} are nested more than {MAX_NESTING} levels deep")]
    Nesting { image: String },
}

impl Diagnosis for ManifestError {
    fn kind(&self) -> ErrorKind {
        match self {
            ManifestError::Malformed { .. }
            | ManifestError::WrongBytes { .. }
            | ManifestError::Nesting { .. } => ErrorKind::Corrupt,
            _ => ErrorKind::Unsupported,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            ManifestError::Schema1 { .. } => {
                "pull it with an old version of Docker and push it again in a current format".into()
            }
            ManifestError::Platform { .. } => format!(
                "use an image that is also built for {}/{}",
                PLATFORM.0, PLATFORM.1
            ),
            ManifestError::LayerType { .. } => {
                "use an image for Linux whose layers are in the registry and not encrypted".into()
            }
            ManifestError::NotAnImage { .. } => "use a container image".into(),
            _ => "the image is damaged at its source: push or save it again".into(),
        })
    }
}

/// An index or a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<ImageIndex>),
    Manifest(Box<ImageManifest>),
}

/// Parses an index or a manifest; `media_type` is the one it was received with.
pub(crate) fn parse(
    bytes: &[u8],
    media_type: Option<&str>,
    image: &str,
) -> Result<Document, ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        schema_version: Option<u32>,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let malformed = |what| {
        move |error: serde_json::Error| ManifestError::Malformed {
            image: image.to_owned(),
            what,
            reason: error.to_string(),
        }
    };
    let probe: Probe = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
    let media_type = probe.media_type.as_deref().or(media_type).unwrap_or("");
    if probe.schema_version == Some(1) || media_type.starts_with(DOCKER_SCHEMA_1) {
        return Err(ManifestError::Schema1 {
            image: image.to_owned(),
        });
    }
    let is_index = matches!(media_type, OCI_INDEX | DOCKER_LIST);
    let is_manifest = matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST);
    // A document without a media type is identified by its fields.
    if is_index || (!is_manifest && probe.manifests.is_some()) {
        let index = serde_json::from_slice(bytes).map_err(malformed("index"))?;
        return Ok(Document::Index(Box::new(index)));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(malformed("manifest"))?;
    let config_type = manifest.config().media_type().to_string();
    if config_type != OCI_CONFIG && config_type != DOCKER_CONFIG {
        return Err(ManifestError::NotAnImage {
            image: image.to_owned(),
            media_type: config_type,
        });
    }
    Ok(Document::Manifest(Box::new(manifest)))
}

/// The entry of an index that is for this platform.
pub(crate) fn choose<'a>(
    index: &'a ImageIndex,
    image: &str,
) -> Result<&'a Descriptor, ManifestError> {
    let platform = |descriptor: &Descriptor| {
        let platform = descriptor.platform().as_ref()?;
        Some((
            platform.os().to_string(),
            platform.architecture().to_string(),
        ))
    };
    let ours = (PLATFORM.0.to_owned(), PLATFORM.1.to_owned());
    let manifests = index.manifests();
    if let Some(found) = manifests
        .iter()
        .find(|m| platform(m).as_ref() == Some(&ours))
    {
        return Ok(found);
    }
    // An entry without a platform is chosen only if it is the only such entry.
    let mut silent = manifests.iter().filter(|m| m.platform().is_none());
    if let (Some(found), None) = (silent.next(), silent.next()) {
        return Ok(found);
    }
    let mut available: Vec<String> = (manifests.iter().filter_map(platform))
        .filter(|(os, _)| os != "unknown")
        .map(|(os, architecture)| format!("{os}/{architecture}"))
        .collect();
    available.dedup();
    if available.is_empty() {
        available.push("no platform at all".into());
    }
    Err(ManifestError::Platform {
        image: image.to_owned(),
        available,
    })
}

/// The digest of a descriptor.
pub(crate) fn digest(descriptor: &Descriptor, image: &str) -> Result<Digest, ManifestError> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| ManifestError::Malformed {
        image: image.to_owned(),
        what: "manifest",
        reason: format!("{text:?} is not a sha256 digest"),
    })
}

/// The OCI form of a manifest. A Docker manifest differs only in its media
/// types, but readers of OCI layouts reject them.
pub(crate) fn as_oci(manifest: &ImageManifest) -> serde_json::Value {
    let entry = |descriptor: &Descriptor, media_type: &str| {
        serde_json::json!({
            "mediaType": media_type,
            "digest": descriptor.digest().to_string(),
            "size": descriptor.size(),
        })
    };
    let layers: Vec<_> = (manifest.layers().iter())
        .map(|layer| {
            let media_type = layer.media_type().to_string();
            let oci = match media_type.rsplit_once("diff.tar") {
                Some((_, "")) => OCI_LAYER.to_owned(),
                // `.gzip`, and `.zstd` as some builders write it.
                Some((_, compression)) => format!("{OCI_LAYER}{}", compression.replace('.', "+")),
                None => media_type,
            };
            entry(layer, &oci)
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(manifest.config(), OCI_CONFIG),
        "layers": layers,
    })
}

/// Reads a configuration, checks the platform, and combines the layers of the
/// manifest with their diff ids.
pub(crate) fn read_config(
    bytes: &[u8],
    manifest: &ImageManifest,
    image: &str,
) -> Result<(ImageConfig, Vec<LayerDescriptor>), ManifestError> {
    let malformed = |reason: String| ManifestError::Malformed {
        image: image.to_owned(),
        what: "configuration",
        reason,
    };
    let document: ConfigDocument =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    // Old images do not name a platform.
    let differs = |said: &str, ours: &str| !said.is_empty() && said != ours;
    if differs(&document.os, PLATFORM.0) || differs(&document.architecture, PLATFORM.1) {
        return Err(ManifestError::Platform {
            image: image.to_owned(),
            available: vec![format!("{}/{}", document.os, document.architecture)],
        });
    }
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers().len() {
        return Err(malformed(format!(
            "it has {} layers, the manifest has {}",
            diff_ids.len(),
            manifest.layers().len()
        )));
    }
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
        layers.push(LayerDescriptor {
            digest: digest(descriptor, image)?,
            size: descriptor.size(),
            diff_id: (diff_id.parse())
                .map_err(|_| malformed(format!("{diff_id:?} is not a sha256 digest")))?,
            media_type: descriptor.media_type().to_string(),
        });
    }
    Ok((document.config.unwrap_or_default(), layers))
}

#[cfg(test)]
mod tests;
