//! The `resolve` node: which image a reference names now.
//!
//! The source is asked each time and the answer is recorded; only a document
//! that is pinned by digest may come from the store. Index, manifest and
//! configuration are stored as blobs.
//!
//! # The image's name in the store
//! When the layers are in the store too, the manifest is tagged in the store's
//! `index.json`, so other tools can read the image:
//! `skopeo inspect oci:<state-dir>/cas:NAME`. NAME is the full reference
//! (`docker.io/library/busybox:1.36`) for an image of a registry and the
//! manifest's digest (`sha256:…`) otherwise. A Docker manifest is tagged in
//! its OCI form, the only one that readers of OCI layouts accept.

use std::sync::Arc;

use microagent_cas::{Digest, Output, Store, StoreError};
use oci_spec::image::{Descriptor, MediaType};

use crate::engine::Engine;
use crate::engine::node::{NodeSpec, Outputs};
use crate::engine::progress::{Event, Stage, short};
use crate::image::manifest::{
    self, Document, ImageConfig, Index, LayerDescriptor, MAX_DOCUMENT, MAX_ENTRIES, MAX_NESTING,
    Manifest, ManifestError,
};
use crate::image::platform::{Candidates, Fit, GuestCpu, PLATFORM};
use crate::image::reference::Reference;
use crate::source::{self, LayerStream, RawDocument, Registries, Source, SourceFailure};

/// The operation.
pub(crate) const OP: &str = "resolve";

/// The image for this platform that a reference named when it was resolved.
#[derive(Debug, Clone)]
pub struct Image {
    /// The reference in its full form.
    pub reference: String,
    /// The same image, pinned: `registry/repository@sha256:…` or `oci:DIR@sha256:…`.
    pub resolved: String,
    /// The document that the reference names: an index, or the manifest.
    pub root: Digest,
    /// The manifest for this platform.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// The configuration's own digest.
    pub config_digest: Digest,
    /// The layers from the bottom up.
    pub layers: Vec<LayerDescriptor>,
    pub(crate) source: Arc<dyn Source>,
    /// The manifest's entry in the store's index.
    pub(crate) descriptor: Descriptor,
    tag: String,
}

/// Why a reference could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum ResolveFailure {
    Store(#[from] StoreError),
    Source(#[from] SourceFailure),
    Manifest(#[from] ManifestError),
}

/// The source of an image that was resolved before: its documents in the store.
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

/// Resolves `reference` for this platform.
///
/// # Errors
/// Those of the source, and [`ManifestError`].
pub(crate) fn resolve(
    engine: &Engine,
    registries: &Registries,
    reference: &Reference,
    cpu: &GuestCpu,
) -> Result<Image, ResolveFailure> {
    resolve_from(engine, reference, cpu, || {
        source::open(reference, registries, engine.store())
    })
}

/// Like [`resolve`], with the source that `open` returns.
///
/// # Errors
/// Those of the source, and [`ManifestError`].
pub(crate) fn resolve_from(
    engine: &Engine,
    reference: &Reference,
    cpu: &GuestCpu,
    open: impl FnOnce() -> Result<Arc<dyn Source>, SourceFailure>,
) -> Result<Image, ResolveFailure> {
    let name = reference.to_string();
    let (before, found) = engine.stage(Stage::Resolve, &name, None, |_| {
        let source = open()?;
        let before = engine.store().peek_node(&spec(&name).key())?;
        let mut found = None;
        engine.observe(spec(&name), || -> Result<_, ResolveFailure> {
            let image = find(engine.store(), source.clone(), reference, cpu)?;
            let outputs = image.outputs();
            found = Some(image);
            Ok(outputs)
        })?;
        Ok::<_, ResolveFailure>((before, found))
    })?;
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
        engine.emit(Event::Notice(format!(
            "{name} has moved since {since}: from {from} to {to}"
        )));
    }
    Ok(found)
}

/// The digest that `reference` named when it was last resolved; `None` if it never was.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn recorded_root(
    store: &Store,
    reference: &Reference,
) -> Result<Option<Digest>, StoreError> {
    let known = store.peek_node(&spec(&reference.to_string()).key())?;
    Ok(known.and_then(|(node, _)| node.record.outputs.get("root").map(Output::digest)))
}

/// The image that `reference` named when it was last resolved, from the store alone; `None` if it
/// never was, or if its documents have been removed.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn recorded_image(
    store: &Store,
    reference: &Reference,
) -> Result<Option<Image>, ResolveFailure> {
    let Some(record) = store.node(&spec(&reference.to_string()).key())? else {
        return Ok(None);
    };
    let output = |name| record.outputs.get(name).map(Output::digest);
    let (Some(root), Some(digest)) = (output("root"), output(OP)) else {
        return Ok(None);
    };
    // The recorded manifest, whatever this machine would choose of its index.
    let mut image = image_at(store, reference, digest, &GuestCpu::default())?;
    image.root = root;
    image.resolved = pinned(reference, &root);
    Ok(Some(image))
}

/// The image with the root document `root`, read as `reference`, from the store alone.
///
/// # Errors
/// When a document is missing or cannot be used.
pub(crate) fn image_at(
    store: &Store,
    reference: &Reference,
    root: Digest,
    cpu: &GuestCpu,
) -> Result<Image, ResolveFailure> {
    let source = Recorded {
        store: store.clone(),
        root,
    };
    find(store, Arc::new(source), reference, cpu)
}

/// Finds the image of a source for guests with this processor.
fn find(
    store: &Store,
    source: Arc<dyn Source>,
    reference: &Reference,
    cpu: &GuestCpu,
) -> Result<Image, ResolveFailure> {
    let document = source.root(store)?;
    store.put_bytes(&document.bytes)?;
    let mut search = Search {
        store,
        source,
        reference,
        name: &reference.to_string(),
        root: Digest::of(&document.bytes),
        cpu,
        read: 0,
    };
    Ok(search.image(document, 0)?.0)
}

/// The search for the image of a reference.
struct Search<'a> {
    store: &'a Store,
    source: Arc<dyn Source>,
    reference: &'a Reference,
    name: &'a str,
    root: Digest,
    cpu: &'a GuestCpu,
    /// The number of entries of indexes read so far.
    read: usize,
}

impl Search<'_> {
    /// The image of an index or a manifest, and what it is for.
    fn image(
        &mut self,
        document: RawDocument,
        depth: usize,
    ) -> Result<(Image, Fit), ResolveFailure> {
        let media_type = document.media_type.as_deref();
        match manifest::parse(&document.bytes, media_type, self.name)? {
            Document::Manifest(manifest) => self.configured(&document, &manifest),
            Document::Index(_) if depth >= MAX_NESTING => Err(ManifestError::Nesting {
                image: self.name.into(),
            }
            .into()),
            Document::Index(index) => self.choose(&index, depth),
        }
    }

    /// The best image of an index. An entry is left out if its configuration is for another
    /// platform, whatever the index says.
    fn choose(&mut self, index: &Index, depth: usize) -> Result<(Image, Fit), ResolveFailure> {
        let candidates = Candidates::of(index, self.cpu);
        let mut available = candidates.others;
        for entry in candidates.bits64 {
            if let Some(found) = self.entry(entry, depth, &mut available)? {
                return Ok(found);
            }
        }
        let mut best: Option<(Image, Fit)> = None;
        for entry in candidates.silent {
            let found = match self.entry(entry, depth, &mut available) {
                // Not everything in an index has to be an image.
                Err(ResolveFailure::Manifest(ManifestError::NotAnImage { .. })) => None,
                found => found?,
            };
            match found {
                Some((_, fit)) if !fit.runs_on(self.cpu) => {}
                Some(found) if best.as_ref().is_none_or(|(_, best)| *best < found.1) => {
                    best = Some(found);
                }
                _ => {}
            }
        }
        if let Some(best) = best {
            return Ok(best);
        }
        for entry in candidates.bits32 {
            if let Some(found) = self.entry(entry, depth, &mut available)? {
                return Ok(found);
            }
        }
        available.dedup();
        if available.is_empty() {
            available.push("no platform at all".into());
        }
        Err(ManifestError::Platform {
            image: self.name.to_owned(),
            available,
        }
        .into())
    }

    /// The image of an entry of an index; `None` if it is for another platform, which is added to
    /// `available`.
    fn entry(
        &mut self,
        entry: &manifest::Descriptor,
        depth: usize,
        available: &mut Vec<String>,
    ) -> Result<Option<(Image, Fit)>, ResolveFailure> {
        self.read += 1;
        if self.read > MAX_ENTRIES {
            return Err(ManifestError::Malformed {
                image: self.name.into(),
                what: "index",
                reason: format!("more than {MAX_ENTRIES} of its entries may be for this machine"),
            }
            .into());
        }
        let digest = manifest::digest(entry, self.name)?;
        let source = self.source.clone();
        let bytes = stored_or(self.store, &digest, self.name, "manifest", || {
            source.manifest(&digest)
        })?;
        let document = RawDocument {
            bytes,
            media_type: Some(entry.media_type.clone()),
        };
        match self.image(document, depth + 1) {
            Ok(found) => Ok(Some(found)),
            Err(ResolveFailure::Manifest(ManifestError::Platform {
                available: named, ..
            })) => {
                available.extend(named);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The image of a manifest.
    fn configured(
        &self,
        document: &RawDocument,
        manifest: &Manifest,
    ) -> Result<(Image, Fit), ResolveFailure> {
        let Search {
            store,
            reference,
            name,
            root,
            ..
        } = *self;
        let config_digest = manifest::digest(&manifest.config, name)?;
        let bytes = stored_or(store, &config_digest, name, "configuration", || {
            self.source.config(&config_digest)
        })?;
        let configured = manifest::read_config(&bytes, manifest, name)?;
        let oci = match manifest.is_oci() {
            true => document.bytes.clone(),
            false => manifest::as_oci(manifest).to_string().into_bytes(),
        };
        let oci_manifest = store.put_bytes(&oci)?;
        let digest = Digest::of(&document.bytes);
        let image = Image {
            tag: match reference {
                Reference::Registry(_) => name.to_owned(),
                _ => digest.to_string(),
            },
            resolved: pinned(reference, &root),
            reference: name.to_owned(),
            root,
            digest,
            descriptor: Descriptor::new(
                MediaType::ImageManifest,
                oci.len() as u64,
                oci_digest(&oci_manifest),
            ),
            config: configured.config,
            config_digest,
            layers: configured.layers,
            source: self.source.clone(),
        };
        Ok((image, configured.fit))
    }
}

/// A document by digest: from the store, or from the source through `fetch`, verified and stored.
fn stored_or(
    store: &Store,
    digest: &Digest,
    name: &str,
    what: &'static str,
    fetch: impl FnOnce() -> Result<Vec<u8>, SourceFailure>,
) -> Result<Vec<u8>, ResolveFailure> {
    if let Some(bytes) = store.read_blob(digest, MAX_DOCUMENT)? {
        return Ok(bytes);
    }
    let bytes = fetch()?;
    keep(store, &bytes, digest, name, what)?;
    Ok(bytes)
}

/// Stores a document under its digest.
///
/// # Errors
/// [`ManifestError::WrongBytes`] when it has another digest.
pub(crate) fn keep(
    store: &Store,
    bytes: &[u8],
    digest: &Digest,
    name: &str,
    what: &'static str,
) -> Result<(), ResolveFailure> {
    let actual = Digest::of(bytes);
    if actual != *digest {
        return Err(ManifestError::WrongBytes {
            image: name.into(),
            what,
            expected: *digest,
            actual,
        }
        .into());
    }
    store.put_bytes(bytes)?;
    Ok(())
}

/// Tags the image in the store's index for other tools, if all its layers are in the store.
///
/// # Errors
/// When the store cannot be read or written.
pub(crate) fn tag_image(store: &Store, image: &Image) -> Result<(), StoreError> {
    let layers: Vec<Output> = (image.layers.iter())
        .map(|layer| layer.digest.into())
        .collect();
    store.hold(&layers)?;
    for layer in &image.layers {
        if store.blob_size(&layer.digest)?.is_none() {
            return Ok(());
        }
    }
    match store.tag(&image.tag, image.descriptor.clone()) {
        Ok(()) => Ok(()),
        // Not every reference is a valid OCI reference name ([::1]:5000/…).
        Err(StoreError::InvalidName { .. }) => {
            let tag = image.digest.to_string();
            store.tag(&tag, image.descriptor.clone())
        }
        Err(error) => Err(error),
    }
}

/// The node that records the image of a reference.
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
    /// The image's documents. As outputs of the node they are kept for as long as its record: the
    /// document that the reference names (`root`), the manifest for this platform (`resolve`), its
    /// OCI form (`manifest`) and the configuration (`config`).
    pub(crate) fn outputs(&self) -> Outputs {
        // It was made from a `Digest`, so it parses as one.
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

/// The reference with `digest` in place of its tag.
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

/// The digest as the type of `oci-spec`.
pub(crate) fn oci_digest(digest: &Digest) -> oci_spec::image::Digest {
    // The forms are the same: algorithm and hex digits.
    let text = digest.to_string();
    oci_spec::image::Digest::try_from(text).expect("sha256 and 64 hex digits is an OCI digest")
}
