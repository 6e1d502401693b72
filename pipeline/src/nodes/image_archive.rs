//! Exports an image of the store as one file, and imports it: `cache export`, `cache import`.
//!
//! The file is an OCI image layout in a tar (image-layout.md), as read by `skopeo copy
//! oci-archive:…` and `podman load`: `oci-layout`, `index.json` with one manifest,
//! `blobs/sha256/…`. It holds all documents and layers of the image: the manifest, the
//! configuration, the layers as distributed and, if they differ from the manifest, the index that
//! the reference names and the manifest in Docker's form. Annotations of the manifest's entry
//! identify them:
//!
//! | annotation | |
//! |---|---|
//! | `org.opencontainers.image.ref.name` | the name that `podman load` gives it, if there is one |
//! | `microagent.reference` | the reference |
//! | `microagent.root` | the digest that pins it |
//! | `microagent.manifest` | the manifest for this platform, as received |
//!
//! So after an import, an image pinned by digest is found without a registry. The same image gives
//! the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use microagent_cas::{Digest, StoreError};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::engine::Engine;
use crate::engine::progress::Stage;
use crate::image::manifest::{self, ManifestError};
use crate::image::platform::GuestCpu;
use crate::image::reference::{Reference, Selector};
use crate::nodes::layer::{self, LayerFailure};
use crate::nodes::resolve::{self, Image, ResolveFailure};
use crate::source::{self, ArchiveError, ArchiveProblem, OciArchive, Registries, SourceFailure};

const REFERENCE: &str = "microagent.reference";
/// The full name in archives of Docker, BuildKit and containerd, where the reference name is a tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const ROOT: &str = "microagent.root";
const MANIFEST: &str = "microagent.manifest";
const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
const BUFFER: usize = 1 << 20;

/// Why an image cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum ImageArchiveError {
    #[error("{image} has not been resolved in this store")]
    Unknown { image: String },
    #[error("cannot write the image to {}", path.display())]
    Write {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot import {}: only an OCI archive can be imported", path.display())]
    OtherFormat {
        path: std::path::PathBuf,
        prefix: &'static str,
    },
    #[error("{} contains no named image", path.display())]
    Nameless { path: std::path::PathBuf },
    #[error("{} names an image {name}, which is not the image it contains", path.display())]
    FalseName {
        path: std::path::PathBuf,
        name: String,
    },
}

impl Diagnosis for ImageArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            ImageArchiveError::Unknown { .. } | ImageArchiveError::Nameless { .. } => {
                ErrorKind::NotFound
            }
            ImageArchiveError::Write { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    ErrorKind::Permission
                }
                _ => ErrorKind::Host,
            },
            ImageArchiveError::OtherFormat { .. } => ErrorKind::Unsupported,
            ImageArchiveError::FalseName { .. } => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        match self {
            ImageArchiveError::Unknown { image } => Some(format!(
                "build it first: microagent rootfs build --allow-mutable --image {image}"
            )),
            ImageArchiveError::OtherFormat { path, prefix } => {
                Some(format!("use it directly: run {prefix}{}", path.display()))
            }
            ImageArchiveError::Nameless { .. } => {
                Some("use it directly: run oci-archive:FILE".to_owned())
            }
            ImageArchiveError::Write { .. } => None,
            ImageArchiveError::FalseName { .. } => Some(
                "do not trust this archive, or use it directly: run oci-archive:FILE".to_owned(),
            ),
        }
    }
}

/// Why an image could not be exported or imported.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum ImageArchiveFailure {
    Store(#[from] StoreError),
    Archive(#[from] ArchiveError),
    Source(#[from] SourceFailure),
    Resolve(#[from] ResolveFailure),
    Manifest(#[from] ManifestError),
    Layer(#[from] LayerFailure),
    ImageArchive(#[from] ImageArchiveError),
}

/// Writes the image that `reference` named when it was last resolved to `output`, which may be a
/// pipe; returns its size in bytes. Missing layers are fetched again. `path` is used in error
/// messages.
///
/// # Errors
/// [`ImageArchiveError`], and those of fetching.
pub(crate) fn export(
    engine: &Engine,
    registries: &Registries,
    reference: &Reference,
    output: &File,
    path: &Path,
) -> Result<(Image, u64), ImageArchiveFailure> {
    let image = resolve::recorded_image(engine.store(), reference)?;
    let mut image = image.ok_or_else(|| ImageArchiveError::Unknown {
        image: reference.to_string(),
    })?;
    // The source may no longer exist; then only the store is used.
    if let Ok(source) = source::open(reference, registries, engine.store()) {
        image.source = source;
    }
    layer::fetch_layers(engine, &image)?;
    let written = engine.stage(Stage::Export, &image.reference, None, |advance| {
        write_archive(engine, &image, output, advance)
    });
    match written {
        Ok(size) => Ok((image, size)),
        Err(error) => Err(match StoreError::from_stream(error) {
            Ok(error) => error.into(),
            Err(source) => ImageArchiveError::Write {
                path: path.to_owned(),
                source,
            }
            .into(),
        }),
    }
}

fn write_archive(
    engine: &Engine,
    image: &Image,
    output: &File,
    advance: &dyn Fn(u64),
) -> io::Result<u64> {
    let output = Counted { output, size: 0 };
    let mut archive = tar::Builder::new(BufWriter::with_capacity(BUFFER, output));
    file(
        &mut archive,
        "oci-layout",
        OCI_LAYOUT.len() as u64,
        OCI_LAYOUT,
    )?;
    let index = index_of(image);
    file(
        &mut archive,
        "index.json",
        index.len() as u64,
        index.as_bytes(),
    )?;
    let mut blobs = BTreeSet::from([image.root, image.digest, image.config_digest]);
    blobs.extend(image.descriptor.digest().to_string().parse::<Digest>());
    blobs.extend(image.layers.iter().map(|layer| layer.digest));
    for digest in blobs {
        let mut blob = engine.open_verified(&digest).map_err(io::Error::other)?;
        let name = format!("blobs/sha256/{}", digest.hex());
        let size = blob.size()?;
        file(&mut archive, &name, size, &mut blob)?;
        // A damaged blob is not exported.
        blob.finish().map_err(io::Error::other)?;
        advance(size);
    }
    let output = archive.into_inner()?.into_inner();
    Ok(output.map_err(io::IntoInnerError::into_error)?.size)
}

/// Counts what is written: a pipe has no size.
struct Counted<'a> {
    output: &'a File,
    size: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Imports every named image of an OCI archive into the store, as if it had been pulled under its
/// name. Returns the resolved images.
///
/// # Errors
/// [`ImageArchiveError`], and those of reading and unpacking the archive.
pub(crate) fn import(
    engine: &Engine,
    path: &Path,
    cpu: &GuestCpu,
) -> Result<Vec<Image>, ImageArchiveFailure> {
    let store = engine.store();
    let mut imported = Vec::new();
    let archive = OciArchive::open(path, store).map_err(|error| match error {
        SourceFailure::Archive(error) => not_importable(error),
        error => error.into(),
    })?;
    for entry in archive.index()?.manifests {
        let annotations = &entry.annotations;
        let Some(name) = [REFERENCE, CONTAINERD_NAME, ANNOTATION_REF_NAME]
            .into_iter()
            .find_map(|key| annotations.get(key))
        else {
            continue;
        };
        let select = match annotations.get(ANNOTATION_REF_NAME) {
            Some(name) => Selector::Name(name.clone()),
            None => Selector::Digest(manifest::digest(&entry, &path.display().to_string())?),
        };
        let archived = Reference::OciArchive {
            path: path.to_owned(),
            select: select.clone(),
        };
        let mut image = resolve::resolve_from(engine, &archived, cpu, || {
            archive.image(&select, &archived.to_string())
        })?;
        layer::layers(engine, &image)?;
        layer::fetch_layers(engine, &image)?;
        if let Some(reference) = imported_name(name) {
            let pin = |key| annotations.get(key).and_then(|digest| digest.parse().ok());
            for digest in [pin(ROOT), pin(MANIFEST)].into_iter().flatten() {
                let bytes = image.source.manifest(&digest)?;
                resolve::keep(store, &bytes, &digest, &image.reference, "manifest")?;
            }
            let root = pin(ROOT).unwrap_or(image.root);
            let false_name = || ImageArchiveError::FalseName {
                path: path.to_owned(),
                name: name.clone(),
            };
            if let Reference::Registry(named) = &reference
                && named.digest.is_some_and(|pinned| pinned != root)
            {
                return Err(false_name().into());
            }
            let archived = image.config_digest;
            image = resolve::image_at(store, &reference, root, cpu)?;
            // An index must lead to the archived image, not to another one in the store.
            if image.config_digest != archived {
                return Err(false_name().into());
            }
            adopt(engine, &reference, &image)?;
        }
        resolve::tag_image(store, &image)?;
        imported.push(image);
    }
    match imported.is_empty() {
        true => Err(ImageArchiveError::Nameless {
            path: path.to_owned(),
        }
        .into()),
        false => Ok(imported),
    }
}

/// The error for what is not an OCI archive.
fn not_importable(error: ArchiveError) -> ImageArchiveFailure {
    match &error.problem {
        ArchiveProblem::OtherFormat { found, .. } => match found.prefix() {
            Some(prefix) => ImageArchiveError::OtherFormat {
                path: error.path,
                prefix,
            }
            .into(),
            None => error.into(),
        },
        _ => error.into(),
    }
}

/// The reference that an image is imported as, by the rule of `podman load`: a name without a
/// registry is one of `localhost`, not of Docker Hub. `None` for a name that is not one of a
/// registry.
fn imported_name(name: &str) -> Option<Reference> {
    let registry = name.split_once('/').map_or("", |(registry, _)| registry);
    let is_registry = registry == "localhost" || registry.contains(['.', ':']);
    let is_other = ["oci:", "oci-archive:", "docker-archive:"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let name = match is_registry || is_other {
        true => name.to_owned(),
        false => format!("localhost/{name}"),
    };
    let parsed = name.parse::<Reference>().ok();
    parsed.filter(|reference| matches!(reference, Reference::Registry(_)))
}

/// The name that `podman load` gives an exported image; `None` if there is none that it accepts,
/// and the image has its digest only.
fn exported_name(reference: &str) -> Option<String> {
    let registry = |reference| match reference {
        Reference::Registry(reference) => reference.tag.as_ref().map(|tag| {
            let name = reference.name();
            format!("{name}:{tag}")
        }),
        _ => None,
    };
    match reference.parse().ok()? {
        Reference::OciLayout { select, .. } | Reference::OciArchive { select, .. } => {
            match select {
                // A tag, which becomes the name of the repository.
                Selector::Name(name) => imported_name(&name).map(|_| name),
                Selector::Only | Selector::Digest(_) => None,
            }
        }
        Reference::DockerArchive { name, .. } => registry(name?.parse().ok()?),
        reference => registry(reference),
    }
}

/// Records that `reference` names `image`.
fn adopt(engine: &Engine, reference: &Reference, image: &Image) -> Result<(), StoreError> {
    let spec = resolve::spec(&reference.to_string());
    engine.observe(spec, || Ok::<_, StoreError>(image.outputs()))?;
    Ok(())
}

/// `index.json` of an archive of one image.
fn index_of(image: &Image) -> String {
    let mut annotations = HashMap::from([
        (REFERENCE.to_owned(), image.reference.clone()),
        (ROOT.to_owned(), image.root.to_string()),
        (MANIFEST.to_owned(), image.digest.to_string()),
    ]);
    if let Some(name) = exported_name(&image.reference) {
        annotations.insert(ANNOTATION_REF_NAME.to_owned(), name);
    }
    let mut entry: Descriptor = image.descriptor.clone();
    entry.set_annotations(Some(annotations));
    let mut index = ImageIndex::default();
    index.set_schema_version(2);
    index.set_manifests(vec![entry]);
    // Through `Value`, which sorts its members, so the order of annotations is fixed.
    serde_json::to_value(&index).map_or_else(|_| String::new(), |index| index.to_string())
}

fn file(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_podman_load() {
        let hex = "a".repeat(64);
        let imported = |name: &str| imported_name(name).map(|reference| reference.to_string());
        for (name, expected) in [
            ("1.36", Some("localhost/1.36:latest")),
            ("v1", Some("localhost/v1:latest")),
            ("busybox:1.36", Some("localhost/busybox:1.36")),
            ("team/app:2", Some("localhost/team/app:2")),
            ("localhost/x:1", Some("localhost/x:1")),
            (
                "docker.io/library/busybox:1.36",
                Some("docker.io/library/busybox:1.36"),
            ),
            ("reg.test:5000/x", Some("reg.test:5000/x:latest")),
            ("with space", None),
            ("UPPER", None),
            ("oci:/tmp/x:v1", None),
        ] {
            assert_eq!(imported(name).as_deref(), expected, "{name}");
        }
        for (reference, expected) in [
            (
                "busybox:1.36".to_owned(),
                Some("docker.io/library/busybox:1.36"),
            ),
            (format!("reg.test/x:1@sha256:{hex}"), Some("reg.test/x:1")),
            (format!("reg.test/x@sha256:{hex}"), None),
            ("oci:/l:v1".to_owned(), Some("v1")),
            ("oci:/l:team/app:2".to_owned(), Some("team/app:2")),
            ("oci:/l:With Space".to_owned(), None),
            ("oci:/l".to_owned(), None),
            ("oci-archive:/f".to_owned(), None),
            ("docker-archive:/f".to_owned(), None),
            (
                "docker-archive:/f:app:1".to_owned(),
                Some("docker.io/library/app:1"),
            ),
        ] {
            assert_eq!(
                exported_name(&reference).as_deref(),
                expected,
                "{reference}"
            );
        }
    }
}
