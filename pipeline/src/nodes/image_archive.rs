//! Exports an image of the store as one file, and imports it: `cache export`, `cache import`.
//!
//! The file is an OCI image layout in a tar (image-layout.md), as read by `skopeo copy
//! oci-archive:…` and `podman load`: `oci-layout`, `index.json` with one manifest, `blobs/sha256/…`.
//! It holds all documents and layers of the image: the manifest, the configuration, the layers as
//! distributed and, if they differ from the manifest, the index that the reference names and the
//! manifest in Docker's form. Annotations of the manifest's entry identify them:
//!
//! | annotation | |
//! |---|---|
//! | `org.opencontainers.image.ref.name` | the reference |
//! | `microagent.root` | the digest that pins it |
//! | `microagent.manifest` | the manifest for this platform, as received |
//!
//! So after an import, an image pinned by digest is found without a registry. The same image gives
//! the same bytes.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use microagent_cas::{Digest, Store, StoreError};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::engine::Engine;
use crate::engine::progress::Stage;
use crate::image::platform::GuestCpu;
use crate::image::reference::{Reference, Selector};
use crate::nodes::layer::{self, LayerFailure};
use crate::nodes::resolve::{self, Image, ResolveFailure};
use crate::source::{self, ArchiveError, Registries, SourceFailure};

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
    #[error("{} contains no named image", path.display())]
    Nameless { path: std::path::PathBuf },
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
        }
    }

    fn remediation(&self) -> Option<String> {
        match self {
            ImageArchiveError::Unknown { image } => Some(format!(
                "build it first: microagent rootfs build --allow-mutable --image {image}"
            )),
            ImageArchiveError::Nameless { .. } => {
                Some("use it directly: run oci-archive:FILE".to_owned())
            }
            ImageArchiveError::Write { .. } => None,
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
    if let Ok(source) = source::open(reference, registries) {
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
        let blob = engine.open(&digest).map_err(io::Error::other)?;
        let name = format!("blobs/sha256/{}", digest.hex());
        // Verified, so that a damaged blob is not exported.
        let mut checked = Checked::new(blob.file, digest, engine.store());
        file(&mut archive, &name, blob.size, &mut checked)?;
        advance(blob.size);
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
    registries: &Registries,
    path: &Path,
    cpu: &GuestCpu,
) -> Result<Vec<Image>, ImageArchiveFailure> {
    let store = engine.store();
    let mut imported = Vec::new();
    for entry in source::archive_index(path)?.manifests {
        let annotations = &entry.annotations;
        let Some(name) = annotations.get(ANNOTATION_REF_NAME) else {
            continue;
        };
        let archived = Reference::OciArchive {
            path: path.to_owned(),
            select: Selector::Name(name.clone()),
        };
        let mut image = resolve::resolve(engine, registries, &archived, cpu)?;
        layer::layers(engine, &image)?;
        layer::fetch_layers(engine, &image)?;
        // A name that is not a registry reference is only a tag in the archive.
        if let Ok(reference @ Reference::Registry(_)) = name.parse::<Reference>() {
            let pin = |key| annotations.get(key).and_then(|digest| digest.parse().ok());
            for digest in [pin(ROOT), pin(MANIFEST)].into_iter().flatten() {
                let bytes = image.source.manifest(&digest)?;
                resolve::keep(store, &bytes, &digest, &image.reference, "manifest")?;
            }
            let root = pin(ROOT).unwrap_or(image.root);
            image = adopt(engine, &reference, root, cpu)?;
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

/// Records that `reference` names `root`, whose documents are in the store.
fn adopt(
    engine: &Engine,
    reference: &Reference,
    root: Digest,
    cpu: &GuestCpu,
) -> Result<Image, ResolveFailure> {
    let image = resolve::image_at(engine.store(), reference, root, cpu)?;
    let spec = resolve::spec(&reference.to_string());
    engine.observe(spec, || Ok::<_, StoreError>(image.outputs()))?;
    Ok(image)
}

/// `index.json` of an archive of one image.
fn index_of(image: &Image) -> String {
    let annotations = HashMap::from([
        (ANNOTATION_REF_NAME.to_owned(), image.reference.clone()),
        (ROOT.to_owned(), image.root.to_string()),
        (MANIFEST.to_owned(), image.digest.to_string()),
    ]);
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

/// Reads a blob and fails at its end if its content does not match its digest.
struct Checked<'a> {
    file: File,
    hasher: Option<microagent_cas::Hasher>,
    digest: Digest,
    store: &'a Store,
}

impl Checked<'_> {
    fn new(file: File, digest: Digest, store: &Store) -> Checked<'_> {
        let hasher = Some(microagent_cas::Hasher::new());
        Checked {
            file,
            hasher,
            digest,
            store,
        }
    }
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        if read == 0
            && !buffer.is_empty()
            && let Some(hasher) = self.hasher.take()
        {
            let actual = hasher.finish();
            if actual != self.digest {
                return Err(io::Error::other(StoreError::Corrupt {
                    path: self.store.blob_path(&self.digest),
                    why: format!("its content has digest {actual}"),
                }));
            }
        }
        Ok(read)
    }
}
