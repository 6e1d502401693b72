//! Writes OCI layouts of synthetic images that common tools cannot produce quickly.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;

/// The compression of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// gzip at its fastest level.
    Gzip,
    /// Zstandard at its fastest level.
    Zstd,
}

/// A written layer.
#[derive(Debug, Clone)]
pub struct Layer {
    media_type: &'static str,
    digest: String,
    diff_id: String,
    size: u64,
}

/// Writes an OCI layout.
#[derive(Debug)]
pub struct LayoutWriter {
    directory: PathBuf,
    manifests: Vec<Value>,
}

type TarWriter<'a> = tar::Builder<&'a mut dyn Write>;

impl LayoutWriter {
    /// Starts a layout in `directory`, which is created if absent.
    ///
    /// # Errors
    /// When the layout cannot be written.
    pub fn new(directory: &Path) -> Result<LayoutWriter, Error> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(Error::file(blobs))?;
        let layout = directory.join("oci-layout");
        fs::write(&layout, r#"{"imageLayoutVersion":"1.0.0"}"#).map_err(Error::file(layout))?;
        Ok(LayoutWriter {
            directory: directory.to_owned(),
            manifests: Vec::new(),
        })
    }

    /// Writes a layer with the entries that `fill` adds.
    ///
    /// # Errors
    /// When `fill` fails or the layer cannot be written.
    pub fn layer(
        &self,
        compression: Compression,
        fill: impl FnOnce(&mut TarWriter<'_>) -> io::Result<()>,
    ) -> Result<Layer, Error> {
        let path = self.directory.join("blobs/layer.new");
        let write = || -> io::Result<Layer> {
            let blob = Hashed::new(BufWriter::with_capacity(1 << 20, File::create(&path)?));
            let (media_type, diff_id, blob) = match compression {
                Compression::None => {
                    let (diff_id, blob) = tarred(blob, fill)?;
                    ("application/vnd.oci.image.layer.v1.tar", diff_id, blob)
                }
                Compression::Gzip => {
                    let level = flate2::Compression::fast();
                    let encoder = flate2::write::GzEncoder::new(blob, level);
                    let (diff_id, encoder) = tarred(encoder, fill)?;
                    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
                    (media_type, diff_id, encoder.finish()?)
                }
                Compression::Zstd => {
                    let encoder = zstd::stream::write::Encoder::new(blob, 1)?;
                    let (diff_id, encoder) = tarred(encoder, fill)?;
                    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
                    (media_type, diff_id, encoder.finish()?)
                }
            };
            let size = blob.bytes;
            let (digest, mut file) = blob.finish();
            file.flush()?;
            Ok(Layer {
                media_type,
                digest,
                diff_id,
                size,
            })
        };
        let layer = write().map_err(Error::file(&path))?;
        let place = self.blob(&layer.digest);
        fs::rename(&path, &place).map_err(Error::file(place))?;
        Ok(layer)
    }

    /// Adds an image of these layers, bottom layer first. It is available as `oci:DIR:TAG` after
    /// [`LayoutWriter::finish`].
    ///
    /// # Errors
    /// When the image cannot be written.
    pub fn image(&mut self, tag: &str, layers: &[Layer]) -> Result<(), Error> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| &*layer.diff_id).collect();
        let config = self.document(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        let layers: Vec<Value> = (layers.iter())
            .map(|layer| descriptor(layer.media_type, &layer.digest, layer.size))
            .collect();
        let manifest = self.document(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config.0, config.1),
            "layers": layers,
        }))?;
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let mut entry = descriptor(media_type, &manifest.0, manifest.1);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(entry);
        Ok(())
    }

    /// Writes the index of the layout.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn finish(self) -> Result<(), Error> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        let path = self.directory.join("index.json");
        fs::write(&path, index.to_string()).map_err(Error::file(path))
    }

    fn document(&self, document: &Value) -> Result<(String, u64), Error> {
        let bytes = document.to_string().into_bytes();
        let digest = text(Sha256::digest(&bytes).as_ref());
        let path = self.blob(&digest);
        fs::write(&path, &bytes).map_err(Error::file(path))?;
        Ok((digest, bytes.len() as u64))
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.directory.join("blobs/sha256").join(hex)
    }
}

/// A header for an entry of a synthetic layer.
pub fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let directory = kind == tar::EntryType::Directory;
    header.set_entry_type(kind);
    header.set_mode(if directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Writes a tar archive to `output`; returns its digest, and `output`.
fn tarred<W: Write>(
    output: W,
    fill: impl FnOnce(&mut TarWriter<'_>) -> io::Result<()>,
) -> io::Result<(String, W)> {
    let mut output = Hashed::new(output);
    let mut tar = tar::Builder::new(&mut output as &mut dyn Write);
    fill(&mut tar)?;
    tar.into_inner()?;
    Ok(output.finish())
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn text(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A writer that hashes and counts the bytes it passes on.
struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Hashed<W> {
        Hashed {
            inner,
            hasher: Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> (String, W) {
        (text(self.hasher.finalize().as_ref()), self.inner)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
