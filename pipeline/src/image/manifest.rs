//! The documents of an image: index, manifest, configuration. Pure parsing.
//!
//! OCI and Docker schema 2 differ only in media types; schema 1 is detected and
//! rejected.

use microagent_cas::Digest;

use super::document::AnyManifest;
pub use super::document::ImageConfig;
pub(crate) use super::document::{Configuration, Descriptor, Index, Manifest};
use super::go_json;
use super::platform::{self, CpuLevel, Fit, PLATFORM, Verdict};
use crate::diagnosis::{Diagnosis, ErrorKind, shown};

/// The maximum size of an index, a manifest or a configuration, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// The maximum number of entries of an image's indexes that are read to find the one that suits.
pub(crate) const MAX_ENTRIES: usize = 32;
/// The maximum depth of nested indexes.
pub(crate) const MAX_NESTING: usize = 4;

/// The media type of an image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of an uncompressed layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The media type of a layer with gzip compression.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
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

/// Why an image's documents cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum ManifestError {
    #[error("the {what} of {image} is not valid: {}", shown(reason))]
    Malformed {
        image: String,
        what: &'static str,
        reason: String,
    },
    #[error("image {image} has a manifest in Docker schema 1, which is not supported")]
    Schema1 { image: String },
    #[error("{image} is not a container image but {}", shown_type(media_type))]
    NotAnImage { image: String, media_type: String },
    #[error("image {image} is for {}; this machine runs {}/{}", shown(&available.join(", ")), PLATFORM.0, PLATFORM.1)]
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
    #[error(
        "layer {layer} of {image} has the unsupported media type {}",
        shown(media_type)
    )]
    LayerType {
        layer: Digest,
        image: String,
        media_type: String,
    },
    #[error("the {what} of {image} has the digest {digest}; only sha256 is supported")]
    Algorithm {
        image: String,
        what: &'static str,
        digest: String,
    },
    #[error("the indexes of {image} are nested more than {MAX_NESTING} levels deep")]
    Nesting { image: String },
}

/// How skopeo names an image.
fn skopeo_source(image: &str) -> String {
    match image.split_once(':') {
        Some(("oci" | "oci-archive" | "docker-archive", _)) => image.to_owned(),
        _ => format!("docker://{image}"),
    }
}

fn shown_type(media_type: &str) -> String {
    match media_type {
        "" => "without a media type".to_owned(),
        media_type => shown(media_type),
    }
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
            ManifestError::Schema1 { image } => {
                let source = skopeo_source(image);
                format!("convert it with `skopeo copy {source} oci:DIR:TAG` and use oci:DIR:TAG")
            }
            ManifestError::Platform { .. } => format!(
                "use an image that is also built for {}/{}",
                PLATFORM.0, PLATFORM.1
            ),
            ManifestError::LayerType { .. } => {
                "use an image for Linux whose layers are in the registry and not encrypted".into()
            }
            // skopeo, which reads the others, cannot read these.
            ManifestError::Algorithm {
                what: "configuration",
                ..
            } => "build the image with sha256 digests".into(),
            ManifestError::Algorithm { image, .. } => {
                let source = skopeo_source(image);
                format!(
                    "convert it with `skopeo copy {source} docker-archive:FILE` and use \
                     docker-archive:FILE"
                )
            }
            ManifestError::NotAnImage { .. } => "use a container image".into(),
            _ => "the image is damaged at its source: push or save it again".into(),
        })
    }
}

/// An index or a manifest.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Box<Index>),
    Manifest(Box<Manifest>),
}

/// The media types of configurations in Docker manifests. Old registries and build tools gave a
/// configuration one of the last four (distribution/distribution#1621); Docker takes them for
/// images.
const DOCKER_CONFIGS: [&str; 6] = [
    DOCKER_CONFIG,
    OCI_CONFIG,
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];

impl Manifest {
    /// Whether this is an OCI manifest rather than a Docker one.
    pub(crate) fn is_oci(&self) -> bool {
        match self.media_type.as_str() {
            "" => self.config.media_type == OCI_CONFIG,
            media_type => media_type == OCI_MANIFEST,
        }
    }

    fn is_image(&self) -> bool {
        let config = self.config.media_type.as_str();
        match self.media_type == OCI_MANIFEST {
            true => config == OCI_CONFIG || config == DOCKER_CONFIG,
            false => DOCKER_CONFIGS.contains(&config),
        }
    }
}

/// Parses an index or a manifest; `announced` is the media type that it was received with. The
/// document's own media type has priority, and its fields decide if neither names a known type:
/// some registries serve every document as `application/json` or `text/plain`.
pub(crate) fn parse(
    bytes: &[u8],
    announced: Option<&str>,
    image: &str,
) -> Result<Document, ManifestError> {
    let malformed = |what, reason: String| ManifestError::Malformed {
        image: image.to_owned(),
        what,
        reason,
    };
    let any: AnyManifest =
        go_json::from_slice(bytes).map_err(|error| malformed("manifest", error.to_string()))?;
    let is_schema_1 = |media_type: &str| media_type.starts_with(DOCKER_SCHEMA_1);
    // The version alone says nothing: some OCI documents have a wrong one.
    let is_schema_1 = match any.media_type.as_str() {
        OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST => false,
        media_type if is_schema_1(media_type) => true,
        _ if any.config.is_some() || any.manifests.is_some() => false,
        _ => any.schema_version == 1 || announced.is_some_and(is_schema_1),
    };
    if is_schema_1 {
        return Err(ManifestError::Schema1 {
            image: image.to_owned(),
        });
    }
    let is_index = match any.media_type.as_str() {
        OCI_INDEX | DOCKER_LIST => true,
        OCI_MANIFEST | DOCKER_MANIFEST => false,
        _ => any.manifests.is_some(),
    };
    // A document that one tool reads as an index and another as a manifest (CVE-2021-41190).
    let has_layers = any.layers.is_some() || any.config.is_some() || any.fs_layers.0;
    if has_layers && (is_index || any.manifests.is_some()) {
        let reason = "it has the fields of an index and of a manifest".to_owned();
        return Err(malformed("manifest", reason));
    }
    if is_index {
        return Ok(Document::Index(Box::new(Index {
            manifests: any.manifests.unwrap_or_default(),
        })));
    }
    let config = any
        .config
        .ok_or_else(|| malformed("manifest", "it does not name a configuration".into()))?;
    let media_type = match (any.media_type.as_str(), announced) {
        ("", Some(known @ (OCI_MANIFEST | DOCKER_MANIFEST))) => known.to_owned(),
        _ => any.media_type,
    };
    let manifest = Manifest {
        media_type,
        config,
        layers: any.layers.unwrap_or_default(),
    };
    match manifest.is_image() {
        true => Ok(Document::Manifest(Box::new(manifest))),
        false => Err(ManifestError::NotAnImage {
            image: image.to_owned(),
            media_type: manifest.config.media_type,
        }),
    }
}

/// Parses the `index.json` of an image layout.
///
/// # Errors
/// When it is not valid.
pub(crate) fn parse_index(bytes: &[u8]) -> Result<Index, serde_json::Error> {
    go_json::from_slice(bytes)
}

/// The digest of a descriptor.
pub(crate) fn digest(descriptor: &Descriptor, image: &str) -> Result<Digest, ManifestError> {
    let what = match descriptor.media_type.as_str() {
        OCI_CONFIG | DOCKER_CONFIG => "configuration",
        OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST => "manifest",
        _ => "layer",
    };
    parse_digest(&descriptor.digest, what, image)
}

fn parse_digest(text: &str, what: &'static str, image: &str) -> Result<Digest, ManifestError> {
    let image = image.to_owned();
    text.parse().map_err(|_| match is_sha512(text) {
        true => ManifestError::Algorithm {
            image,
            what,
            digest: text.chars().take(27).chain(['…']).collect(),
        },
        false => ManifestError::Malformed {
            image,
            what: "manifest",
            reason: format!("{text:?} is not a sha256 digest"),
        },
    })
}

/// The other registered algorithm (OCI image specification, descriptor.md).
fn is_sha512(text: &str) -> bool {
    let hex = text.strip_prefix("sha512:").unwrap_or_default();
    hex.len() == 128 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The size in bytes of the blob of a descriptor.
fn size(descriptor: &Descriptor, image: &str) -> Result<u64, ManifestError> {
    u64::try_from(descriptor.size).map_err(|_| ManifestError::Malformed {
        image: image.to_owned(),
        what: "manifest",
        reason: format!("{} has the size {}", descriptor.digest, descriptor.size),
    })
}

/// The OCI form of a manifest. A Docker manifest differs only in its media
/// types, but readers of OCI layouts reject them.
pub(crate) fn as_oci(manifest: &Manifest) -> serde_json::Value {
    let entry = |descriptor: &Descriptor, media_type: &str| {
        serde_json::json!({
            "mediaType": media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        })
    };
    let layers: Vec<_> = (manifest.layers.iter())
        .map(|layer| {
            let media_type = &layer.media_type;
            let oci = match media_type.rsplit_once("diff.tar") {
                Some((_, "")) => OCI_LAYER.to_owned(),
                // `.gzip`, and `.zstd` as some builders write it.
                Some((_, compression)) => format!("{OCI_LAYER}{}", compression.replace('.', "+")),
                None if media_type.starts_with("application/vnd.") => media_type.clone(),
                // As old as the configurations without a proper type.
                None => OCI_LAYER_GZIP.to_owned(),
            };
            entry(layer, &oci)
        })
        .collect();
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(&manifest.config, OCI_CONFIG),
        "layers": layers,
    })
}

/// What a configuration says about an image.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) config: ImageConfig,
    /// The layers of the manifest with their diff ids.
    pub(crate) layers: Vec<LayerDescriptor>,
    pub(crate) fit: Fit,
}

/// Reads a configuration and checks its platform, except for the level of the processor.
pub(crate) fn read_config(
    bytes: &[u8],
    manifest: &Manifest,
    image: &str,
) -> Result<Configured, ManifestError> {
    let malformed = |reason: String| ManifestError::Malformed {
        image: image.to_owned(),
        what: "configuration",
        reason,
    };
    let document: Configuration =
        go_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let Configuration {
        os,
        architecture,
        variant,
        ..
    } = &document;
    let fit = match platform::verdict(os, architecture, variant) {
        Verdict::Fits(fit) => fit,
        // Old images do not name a platform.
        Verdict::Silent => Fit::Bits64(CpuLevel::V1),
        Verdict::Other => {
            return Err(ManifestError::Platform {
                image: image.to_owned(),
                available: vec![platform::text(os, architecture, variant)],
            });
        }
    };
    // More are ignored, as by podman and umoci.
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() < manifest.layers.len() {
        return Err(malformed(format!(
            "it has {} layers, the manifest has {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        layers.push(LayerDescriptor {
            digest: digest(descriptor, image)?,
            size: size(descriptor, image)?,
            diff_id: match is_sha512(&diff_id) {
                true => parse_digest(&diff_id, "configuration", image)?,
                false => (diff_id.parse())
                    .map_err(|_| malformed(format!("{diff_id:?} is not a sha256 digest")))?,
            },
            media_type: descriptor.media_type.clone(),
        });
    }
    Ok(Configured {
        config: document.config,
        layers,
        fit,
    })
}

#[cfg(test)]
mod tests;
