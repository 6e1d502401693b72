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

use microagent_cas::{Digest, Output, Store, StoreError};
use oci_spec::image::{Descriptor, MediaType};

use crate::engine::node::{NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::image::manifest::{
    self, DOCKER_MANIFEST, Document, ImageConfig, LayerDescriptor, MAX_DOCUMENT, MAX_NESTING,
    ManifestError, PLATFORM,
};
use crate::image::reference::Reference;
use crate::nodes::layer::short;
use crate::pipeline::Pipeline;
use crate::source::{self, LayerStream, RawDocument, Source, SourceFailure};

/// The operation.
pub(crate) const OP: &str = "resolve";

/// An image for this platform, as its reference meant when it was resolved.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference in its full form.
    pub reference: String,
    /// The same image, pinned: `registry/repository@sha256:…` or `oci:DIR@sha256:…`.
    pub resolved: String,
    /// What the reference names: an index, or the manifest.
    pub root: Digest,
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
    pub(crate) descriptor: Descriptor,
    tag: String,
}

/// The documents of an image that was resolved before, from the store alone.
#[derive(Debug)]
struct Recorded {
    store: Store,
    root: Digest,
}

impl Recorded {
    fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.store.blob_path(digest);
        let bytes = self.store.read_blob(digest, MAX_DOCUMENT)?;
        bytes.ok_or_else(|| StoreError::io("open", &path, std::io::ErrorKind::NotFound))
    }
}

impl Source for Recorded {
    fn root(&self, _: &Store) -> Result<RawDocument, SourceFailure> {
        Ok(RawDocument {
            bytes: self.read(&self.root)?,
            media_type: None,
        })
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.read(digest)?)
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.read(digest)?)
    }

    fn layer(
        &self,
        layer: &LayerDescriptor,
        _: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure> {
        let path = self.store.blob_path(&layer.digest);
        Err(StoreError::io("open", &path, std::io::ErrorKind::NotFound).into())
    }
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
        let before = self.store().peek_node(&spec(&name).key())?;
        let mut found = None;
        self.observe(spec(&name), || {
            let image = self.find(source.clone(), reference)?;
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
        if let Some((before, _)) = before
            && let Some(root) = before.record.outputs.get("root").map(Output::digest)
            && root != found.root
        {
            let since = before.record.created_at;
            let (from, to) = (short(&root), short(&found.root));
            self.tell(Event::Notice(format!(
                "{name} has moved since {since}: from {from} to {to}"
            )));
        }
        Ok(found)
    }

    /// The digest that `reference` named when it was resolved here last; `None` if it never was.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recorded_root(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let known = self
            .store()
            .peek_node(&spec(&reference.to_string()).key())?;
        Ok(known.and_then(|(node, _)| node.record.outputs.get("root").map(Output::digest)))
    }

    /// What `reference` meant when it was resolved here last; `None` if it never was, or if the
    /// documents are gone. Nothing outside of the store is asked.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recorded_image(&self, reference: &Reference) -> Result<Option<Image>, Error> {
        let Some(record) = self.store().node(&spec(&reference.to_string()).key())? else {
            return Ok(None);
        };
        let output = |name| record.outputs.get(name).map(Output::digest);
        let (Some(root), Some(digest)) = (output("root"), output(OP)) else {
            return Ok(None);
        };
        let image = self.image_at(reference, root)?;
        // The very manifest that was chosen, should another version choose otherwise.
        Ok(Some(image).filter(|image| image.digest == digest))
    }

    /// The image that `root` is, if that is what `reference` names, from the store alone.
    pub(crate) fn image_at(&self, reference: &Reference, root: Digest) -> Result<Image, Error> {
        let store = self.store().clone();
        self.find(Arc::new(Recorded { store, root }), reference)
    }

    fn find(&self, source: Arc<dyn Source>, reference: &Reference) -> Result<Image, Error> {
        let name = &reference.to_string();
        let mut document = source.root(self.store())?;
        self.store().put_bytes(&document.bytes)?;
        let root = Digest::of(&document.bytes);
        for _ in 0..MAX_NESTING {
            let media_type = document.media_type.as_deref();
            match manifest::parse(&document.bytes, media_type, name)? {
                Document::Index(index) => {
                    let chosen = manifest::choose(&index, name)?;
                    let digest = manifest::digest(chosen, name)?;
                    document.bytes = self.document(&*source, &digest, name)?;
                    document.media_type = Some(chosen.media_type().to_string());
                }
                Document::Manifest(manifest) => {
                    let config_digest = manifest::digest(manifest.config(), name)?;
                    let bytes = self.config(&*source, &config_digest, name)?;
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
                    let digest = Digest::of(&document.bytes);
                    return Ok(Image {
                        tag: match reference {
                            Reference::Registry(_) => name.clone(),
                            _ => digest.to_string(),
                        },
                        resolved: pinned(reference, &root),
                        reference: name.clone(),
                        root,
                        digest,
                        descriptor: Descriptor::new(
                            MediaType::ImageManifest,
                            oci.len() as u64,
                            oci_digest(&oci_manifest),
                        ),
                        config,
                        config_digest,
                        layers,
                        source,
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

    /// Keeps a document under its digest.
    pub(crate) fn keep(
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
        op: OP,
        op_version: 2,
        params: serde_json::json!({ "reference": reference }),
        inputs: Vec::new(),
        platform: Some(format!("{}/{}", PLATFORM.0, PLATFORM.1)),
    }
}

impl Image {
    /// The documents that make the image, so that it stays readable for as long as the record is
    /// there: what the reference names (`root`), the manifest for this platform (`resolve`), that
    /// as OCI writes it (`manifest`), the configuration.
    pub(crate) fn outputs(&self) -> Outputs {
        // Ours, read back: it was made of one.
        let manifest = self.descriptor.digest().to_string().parse();
        [
            ("root", self.root),
            (OP, self.digest),
            ("manifest", manifest.unwrap_or(self.digest)),
            ("config", self.config_digest),
        ]
        .map(|(name, digest)| (name.to_owned(), Output::Blob(digest)))
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
