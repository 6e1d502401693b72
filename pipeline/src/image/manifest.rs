//! The documents of an image: index, manifest, configuration. Pure: bytes in,
//! what the pipeline needs out.
//!
//! OCI and Docker schema 2 differ in media types only; schema 1 is recognised
//! and refused. An index is resolved to this machine's platform.

use microagent_cas::Digest;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// The most bytes of an index, a manifest or a configuration.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// How many indexes may be nested.
pub(crate) const MAX_NESTING: usize = 4;

/// The platform images are for here, in OCI's words.
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

/// A layer as manifest and configuration describe it together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// The blob as it is shipped.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The uncompressed tar.
    pub diff_id: Digest,
    /// The type that the manifest gives it.
    pub media_type: String,
}

impl LayerDescriptor {
    /// Whether the layer may lie somewhere else than the image does (Windows
    /// base layers do).
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains("foreign") || self.media_type.contains("nondistributable")
    }
}

/// What an image says about how to run it: the `config` part of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `NAME=value`, each.
    #[serde(deserialize_with = "list")]
    pub env: Vec<String>,
    /// The directory to start in; empty means the root.
    #[serde(deserialize_with = "text")]
    pub working_dir: String,
    /// `user`, `uid`, `user:group`, `uid:gid`, …; empty means root.
    #[serde(deserialize_with = "text")]
    pub user: String,
    /// What is put before every command.
    #[serde(deserialize_with = "list")]
    pub entrypoint: Vec<String>,
    /// The command when none is given.
    #[serde(deserialize_with = "list")]
    pub cmd: Vec<String>,
    /// The signal that ends it gracefully, if the image says.
    pub stop_signal: Option<String>,
}

/// Docker writes `null` for what is empty.
fn list<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

fn text<'de, D: serde::Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// The parts of an image configuration that matter here. Not `oci-spec`'s
/// type, which refuses configurations that Docker has written for years, for
/// fields nobody looks at.
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
#[allow(missing_docs)] // the message of each says it
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

/// Which kind of document the bytes are; `media_type` is what they came with.
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
    // A document without a type of its own is told by what it has.
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
    // Without a platform only the configuration can tell; one such entry is it.
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

/// A descriptor's digest as ours.
pub(crate) fn digest(descriptor: &Descriptor, image: &str) -> Result<Digest, ManifestError> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| ManifestError::Malformed {
        image: image.to_owned(),
        what: "manifest",
        reason: format!("{text:?} is not a sha256 digest"),
    })
}

/// A manifest as OCI writes it. A Docker manifest differs in its media types
/// only, but readers of OCI layouts do not look at it.
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

/// Reads a configuration, checks that the image is for this machine, and puts
/// the layers of the manifest beside their diff ids.
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
    // Images from before multi-platform ones say nothing.
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
