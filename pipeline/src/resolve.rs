//! The `resolve` node: what a reference means right now.
//!
//! It asks the outside world each time and records the answer; only a digest
//! that is in the store already is taken from there. Index, manifest and
//! configuration are kept as blobs.
//!
//! # The image's name in the store
//! Once its layers are here too, the manifest is tagged in the store's
//! `index.json`, so that other tools read the image from it:
//! `skopeo inspect oci:<state-dir>/cas:NAME`. NAME is the full reference
//! (`docker.io/library/busybox:1.36`) for an image of a registry and the
//! manifest's digest (`sha256:…`) for any other. A Docker manifest is tagged
//! in its OCI form, the only one that readers of layouts know.

use std::sync::Arc;

use microagent_cas::{Digest, Output, StoreError};
use oci_spec::image::{Descriptor, MediaType};

use crate::error::Error;
use crate::manifest::{
    self, DOCKER_MANIFEST, Document, ImageConfig, LayerDescriptor, MAX_DOCUMENT, MAX_NESTING,
    ManifestError, PLATFORM,
};
use crate::node::{NodeSpec, Outputs};
use crate::pipeline::Pipeline;
use crate::progress::{Event, Stage};
use crate::reference::Reference;
use crate::source::{self, Source};

/// An image for this platform, as its reference meant when it was resolved.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference in its full form.
    pub reference: String,
    /// The same image, pinned: `registry/repository@sha256:…` or `oci:DIR@sha256:…`.
    pub resolved: String,
    /// The manifest for this platform.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// The configuration's own digest.
    pub config_digest: Digest,
    /// Its layers from the bottom up.
    pub layers: Vec<LayerDescriptor>,
    pub(crate) source: Arc<dyn Source>,
    /// The manifest's entry in the store's index.
    descriptor: Descriptor,
    tag: String,
}

/// What [`Pipeline::resolve`] finds.
struct Found {
    manifest_digest: Digest,
    /// The manifest in its OCI form: the same, unless Docker wrote it.
    oci_manifest: Digest,
    /// The manifest's entry for the store's index.
    descriptor: Descriptor,
    config: ImageConfig,
    config_digest: Digest,
    layers: Vec<LayerDescriptor>,
    /// The digest that pins the reference: of the index, where there is one.
    pin: Digest,
}

impl Pipeline {
    /// Finds out what `reference` means now, for this platform.
    ///
    /// # Errors
    /// What the source says ([`crate::RegistryError`], [`crate::ArchiveError`])
    /// and [`ManifestError`].
    pub fn resolve(&self, reference: &Reference) -> Result<Image, Error> {
        let name = reference.to_string();
        let stage = Stage::Resolve;
        self.tell(Event::StageStarted {
            stage,
            detail: name.clone(),
            total_bytes: None,
        });
        let source = source::open(reference, self.registries())?;
        let mut found = None;
        self.observe(spec(&name), || {
            let image = self.find(&*source, &name)?;
            let outputs = image.outputs();
            found = Some(image);
            Ok(outputs)
        })?;
        self.tell(Event::StageDone {
            stage,
            detail: name.clone(),
        });
        // `observe` has run the closure, or returned its error.
        let Some(found) = found else {
            return Err(ManifestError::Malformed {
                image: name,
                what: "manifest",
                reason: "it was not read".into(),
            }
            .into());
        };
        let tag = match reference {
            Reference::Registry(_) => name.clone(),
            _ => found.manifest_digest.to_string(),
        };
        Ok(Image {
            resolved: pinned(reference, &found.pin),
            reference: name,
            digest: found.manifest_digest,
            descriptor: found.descriptor,
            config: found.config,
            config_digest: found.config_digest,
            layers: found.layers,
            source,
            tag,
        })
    }

    fn find(&self, source: &dyn Source, name: &str) -> Result<Found, Error> {
        let mut document = source.root(self.store())?;
        self.store().put_bytes(&document.bytes)?;
        let pin = Digest::of(&document.bytes);
        for _ in 0..MAX_NESTING {
            let media_type = document.media_type.as_deref();
            match manifest::parse(&document.bytes, media_type, name)? {
                Document::Index(index) => {
                    let chosen = manifest::choose(&index, name)?;
                    let digest = manifest::digest(chosen, name)?;
                    document.bytes = self.document(source, &digest, name)?;
                    document.media_type = Some(chosen.media_type().to_string());
                }
                Document::Manifest(manifest) => {
                    let config_digest = manifest::digest(manifest.config(), name)?;
                    let bytes = self.config(source, &config_digest, name)?;
                    let (config, layers) = manifest::read_config(&bytes, &manifest, name)?;
                    let declared = manifest.media_type().as_ref().map(MediaType::to_string);
                    let media_type = declared.or(document.media_type);
                    let oci = match media_type.as_deref() {
                        Some(DOCKER_MANIFEST) => {
                            manifest::as_oci(&manifest).to_string().into_bytes()
                        }
                        _ => document.bytes.clone(),
                    };
                    let oci_manifest = self.store().put_bytes(&oci)?;
                    return Ok(Found {
                        manifest_digest: Digest::of(&document.bytes),
                        oci_manifest,
                        descriptor: Descriptor::new(
                            MediaType::ImageManifest,
                            oci.len() as u64,
                            oci_digest(&oci_manifest),
                        ),
                        config,
                        config_digest,
                        layers,
                        pin,
                    });
                }
            }
        }
        Err(ManifestError::Nesting { image: name.into() }.into())
    }

    /// A manifest or index by digest: from the store, or from the source, verified.
    fn document(&self, source: &dyn Source, digest: &Digest, name: &str) -> Result<Vec<u8>, Error> {
        match self.store().read_blob(digest, MAX_DOCUMENT)? {
            Some(bytes) => Ok(bytes),
            None => self.keep(source.manifest(digest)?, digest, name, "manifest"),
        }
    }

    fn config(&self, source: &dyn Source, digest: &Digest, name: &str) -> Result<Vec<u8>, Error> {
        match self.store().read_blob(digest, MAX_DOCUMENT)? {
            Some(bytes) => Ok(bytes),
            None => self.keep(source.config(digest)?, digest, name, "configuration"),
        }
    }

    fn keep(
        &self,
        bytes: Vec<u8>,
        digest: &Digest,
        name: &str,
        what: &'static str,
    ) -> Result<Vec<u8>, Error> {
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ManifestError::WrongBytes {
                image: name.into(),
                what,
                expected: *digest,
                actual,
            }
            .into());
        }
        self.store().put_bytes(&bytes)?;
        Ok(bytes)
    }

    /// Names the image in the store's index if its layers are here, for other tools to read it.
    pub(crate) fn tag_image(&self, image: &Image) -> Result<(), Error> {
        let layers: Vec<Output> = (image.layers.iter())
            .map(|layer| layer.digest.into())
            .collect();
        self.store().hold(&layers)?;
        for layer in &image.layers {
            if self.store().blob_size(&layer.digest)?.is_none() {
                return Ok(());
            }
        }
        match self.store().tag(&image.tag, image.descriptor.clone()) {
            Ok(()) => Ok(()),
            // Not every reference fits the grammar of OCI's names ([::1]:5000/…).
            Err(StoreError::InvalidName { .. }) => {
                let tag = image.digest.to_string();
                Ok(self.store().tag(&tag, image.descriptor.clone())?)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The node that records what a reference meant.
pub(crate) fn spec(reference: &str) -> NodeSpec {
    NodeSpec {
        op: "resolve",
        op_version: 2,
        params: serde_json::json!({ "reference": reference }),
        inputs: Vec::new(),
        platform: Some(format!("{}/{}", PLATFORM.0, PLATFORM.1)),
    }
}

impl Found {
    /// The documents that make the image, so that it stays readable for as long as the record is
    /// there: what the reference names (`root`), the manifest for this platform (`resolve`), that
    /// as OCI writes it (`manifest`), the configuration.
    fn outputs(&self) -> Outputs {
        [
            ("root", self.pin),
            ("resolve", self.manifest_digest),
            ("manifest", self.oci_manifest),
            ("config", self.config_digest),
        ]
        .map(|(name, digest)| (name.to_owned(), digest.into()))
        .into()
    }
}

/// The reference with the digest that was found in place of its tag.
fn pinned(reference: &Reference, digest: &Digest) -> String {
    match reference {
        Reference::Registry(registry) => format!("{}@{digest}", registry.name()),
        Reference::OciLayout { path, .. } => format!("oci:{}@{digest}", path.display()),
        Reference::OciArchive { path, .. } => format!("oci-archive:{}@{digest}", path.display()),
        Reference::DockerArchive { path, .. } => {
            format!("docker-archive:{}@{digest}", path.display())
        }
    }
}

/// Our digest as `oci-spec`'s.
pub(crate) fn oci_digest(digest: &Digest) -> oci_spec::image::Digest {
    // Ours is always one of theirs: algorithm and hex digits.
    let text = digest.to_string();
    oci_spec::image::Digest::try_from(text).expect("sha256 and 64 hex digits is an OCI digest")
}
