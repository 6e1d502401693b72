//! Adding an image to an OCI image layout: that of a workspace, with one layer more.
//!
//! A layout (image-spec, `image-layout.md`) is made if the directory does not exist. Each file
//! appears when it is complete, and `index.json` last, so that readers see the former image or the
//! new one. Documents of the base are taken over with all their fields; the types of Docker's are
//! replaced by those of OCI.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use microagent_cas::{Digest, Hasher, Store, StoreError};
use microagent_pipeline::{Image, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::layer::LayerError;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The largest document that is read, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The compression of the layer; the same version of the compressor gives the same bytes.
const LEVEL: Compression = Compression::new(6);

/// An image cannot be added to a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// A file of the layout cannot be read or written.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The directory exists and is something else.
    #[error("{} is not an OCI image layout", .0.display())]
    NotALayout(PathBuf),
    /// The layer cannot be made.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The base image cannot be read from the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document of the base image is damaged or missing.
    #[error("the {0} of the base image cannot be used")]
    Document(&'static str),
}

/// What is added.
#[derive(Debug, Clone)]
pub struct NewImage<'a> {
    /// The image that is extended, whose layers are in the store. Without it the layer is all.
    pub base: Option<&'a Image>,
    /// Copy its layers into the layout.
    pub with_base: bool,
    /// The name in the layout (`org.opencontainers.image.ref.name`).
    pub tag: &'a str,
    /// When the layer was made, as RFC 3339.
    pub created: &'a str,
    /// What made it, for the history.
    pub created_by: &'a str,
}

/// Adds `image` to the layout `directory`, with the layer that `write` writes as a tar. Returns the
/// digest of its manifest.
///
/// # Errors
/// [`LayoutError`]; the layout has the former images then.
pub fn add_image(
    store: &Store,
    directory: &Path,
    image: &NewImage<'_>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), LayerError>,
) -> Result<Digest, LayoutError> {
    let base = image.base;
    let (manifest, config) = match base {
        Some(base) => (
            document(store, &base.digest, "manifest")?,
            document(store, &base.config_digest, "configuration")?,
        ),
        None => empty(),
    };
    let layers = base.map_or(&[][..], |base| &base.layers);
    let blobs = directory.join("blobs/sha256");
    let failed = |path: &Path| io_error(path);
    check(directory)?;
    fs::create_dir_all(&blobs).map_err(failed(&blobs))?;
    let marker = directory.join("oci-layout");
    if !marker.exists() {
        publish(directory, &marker, LAYOUT.as_bytes())?;
    }
    // Others that add to it wait.
    let lock = File::open(&marker).map_err(failed(&marker))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(&marker)(e.into()))?;
    for layer in layers.iter().filter(|_| image.with_base) {
        copy_blob(store, &layer.digest, &blobs)?;
    }
    let layer = write_layer(&blobs, write)?;
    let config = new_config(config, layers.len(), image, &layer)?;
    let config = put_document(&blobs, &config)?;
    let manifest = new_manifest(manifest, config, &layer)?;
    let (digest, size) = put_document(&blobs, &manifest)?;
    let index = directory.join("index.json");
    let entry = json!({
        "mediaType": OCI_MANIFEST,
        "digest": digest.to_string(),
        "size": size,
        "annotations": { REF_NAME: image.tag },
    });
    let bytes = new_index(&index, entry, image.tag)?;
    publish(directory, &index, &bytes)?;
    Ok(digest)
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> LayoutError + use<> {
    let path = path.to_owned();
    move |source| LayoutError::Io {
        path: path.clone(),
        source,
    }
}

/// Refuses a directory with other content.
fn check(directory: &Path) -> Result<(), LayoutError> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(directory)(error)),
    };
    match entries.next().is_none() || directory.join("oci-layout").is_file() {
        true => Ok(()),
        false => Err(LayoutError::NotALayout(directory.to_owned())),
    }
}

/// Writes a file that appears when it is complete.
fn publish(directory: &Path, path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    let mut file = temporary(directory)?;
    file.write_all(bytes).map_err(io_error(path))?;
    persist(file, path)
}

fn temporary(directory: &Path) -> Result<NamedTempFile, LayoutError> {
    let mut builder = tempfile::Builder::new();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    builder.prefix(".microagent-").permissions(mode);
    builder.tempfile_in(directory).map_err(io_error(directory))
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), LayoutError> {
    file.as_file().sync_all().map_err(io_error(path))?;
    let persisted = file.persist(path).map(drop);
    persisted.map_err(|error| io_error(path)(error.error))
}

/// The manifest and the configuration of an image without layers.
fn empty() -> (Value, Value) {
    let manifest = json!({ "schemaVersion": 2, "layers": [] });
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    (manifest, config)
}

/// A document of the base image.
fn document(store: &Store, digest: &Digest, what: &'static str) -> Result<Value, LayoutError> {
    let bytes = store.read_blob(digest, MAX_DOCUMENT)?;
    let bytes = bytes.ok_or(LayoutError::Document(what))?;
    serde_json::from_slice(&bytes).map_err(|_| LayoutError::Document(what))
}

/// Copies a blob of the store, unless it is there already. A damaged one is an error.
fn copy_blob(store: &Store, digest: &Digest, blobs: &Path) -> Result<(), LayoutError> {
    let path = blobs.join(digest.hex());
    if path.exists() {
        return Ok(());
    }
    let reader = store.verified_reader(digest)?;
    let mut reader = reader.ok_or(LayoutError::Document("layer"))?;
    let mut file = temporary(blobs)?;
    io::copy(&mut reader, &mut file).map_err(io_error(&path))?;
    reader.finish()?;
    persist(file, &path)
}

/// The layer that was written.
struct NewLayer {
    digest: Digest,
    size: u64,
    diff_id: Digest,
}

fn write_layer(
    blobs: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), LayerError>,
) -> Result<NewLayer, LayoutError> {
    let file = temporary(blobs)?;
    let compressed = Hashing::new(file);
    // Without a time or a name in its header.
    let gzip: GzEncoder<_> = GzBuilder::new().write(compressed, LEVEL);
    let mut tar = Hashing::new(gzip);
    write(&mut tar)?;
    let diff_id = tar.hasher.finish();
    let compressed = tar.inner.finish().map_err(io_error(blobs))?;
    let (digest, size) = (compressed.hasher.finish(), compressed.size);
    persist(compressed.inner, &blobs.join(digest.hex()))?;
    Ok(NewLayer {
        digest,
        size,
        diff_id,
    })
}

/// Hashes and counts what is written.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Hashing<W> {
        Hashing {
            inner,
            hasher: Hasher::new(),
            size: 0,
        }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn put_document(blobs: &Path, document: &Value) -> Result<(Digest, u64), LayoutError> {
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    publish(blobs, &blobs.join(digest.hex()), &bytes)?;
    Ok((digest, bytes.len() as u64))
}

/// The configuration of the base with one layer more.
fn new_config(
    mut config: Value,
    layers: usize,
    image: &NewImage<'_>,
    layer: &NewLayer,
) -> Result<Value, LayoutError> {
    let damaged = LayoutError::Document("configuration");
    let Some(diff_ids) = config.pointer_mut("/rootfs/diff_ids") else {
        return Err(damaged);
    };
    let Some(diff_ids) = diff_ids.as_array_mut() else {
        return Err(damaged);
    };
    // Those of superfluous entries would count as layers.
    diff_ids.truncate(layers);
    diff_ids.push(layer.diff_id.to_string().into());
    let Some(fields) = config.as_object_mut() else {
        return Err(damaged);
    };
    fields.insert("created".into(), image.created.into());
    let history = fields.entry("history").or_insert_with(|| json!([]));
    if let Some(history) = history.as_array_mut() {
        history.push(json!({ "created": image.created, "created_by": image.created_by }));
    }
    Ok(config)
}

/// The manifest of the base with one layer more and another configuration.
fn new_manifest(
    mut manifest: Value,
    (config, size): (Digest, u64),
    layer: &NewLayer,
) -> Result<Value, LayoutError> {
    let damaged = || LayoutError::Document("manifest");
    let fields = manifest.as_object_mut().ok_or_else(damaged)?;
    fields.insert("mediaType".into(), OCI_MANIFEST.into());
    fields.insert(
        "config".into(),
        json!({ "mediaType": OCI_CONFIG, "digest": config.to_string(), "size": size }),
    );
    let layers = fields.get_mut("layers").and_then(Value::as_array_mut);
    let layers = layers.ok_or_else(damaged)?;
    for known in layers.iter_mut() {
        let media_type = known.get("mediaType").and_then(Value::as_str);
        if let Some(suffix) = media_type.and_then(docker_layer) {
            known["mediaType"] = format!("{OCI_LAYER}{suffix}").into();
        }
    }
    layers.push(json!({
        "mediaType": OCI_LAYER_GZIP,
        "digest": layer.digest.to_string(),
        "size": layer.size,
    }));
    Ok(manifest)
}

/// What OCI's media type of a layer has at its end, for one of Docker's.
fn docker_layer(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "+zstd",
        _ => return None,
    })
}

/// The index with `entry`, which replaces that of the same tag.
fn new_index(path: &Path, entry: Value, tag: &str) -> Result<Vec<u8>, LayoutError> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => {
            let mut file = BufReader::new(file).take(MAX_DOCUMENT);
            file.read_to_string(&mut text).map_err(io_error(path))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => text.push_str("{}"),
        Err(error) => return Err(io_error(path)(error)),
    }
    let not_a_layout = || LayoutError::NotALayout(path.to_owned());
    let mut index: Value = serde_json::from_str(&text).map_err(|_| not_a_layout())?;
    let fields = index.as_object_mut().ok_or_else(not_a_layout)?;
    fields.insert("schemaVersion".into(), 2.into());
    let manifests = fields.entry("manifests").or_insert_with(|| json!([]));
    let manifests = manifests.as_array_mut().ok_or_else(not_a_layout)?;
    manifests.retain(|known| known["annotations"][REF_NAME] != tag);
    manifests.push(entry);
    Ok(index.to_string().into_bytes())
}
