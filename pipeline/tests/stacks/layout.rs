//! Writes a stack as an OCI image layout (`image-layout.md`).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use microagent_cas::Digest;
use serde_json::{Value, json};

use crate::archive;
use crate::member::{Compression, Stack};

/// Writes the layout with one image, tagged `latest`.
pub fn write(directory: &Path, stack: &Stack) {
    let layout = Layout {
        blobs: directory.join("blobs/sha256"),
    };
    fs::create_dir_all(&layout.blobs).unwrap();
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for layer in &stack.layers {
        let tar = archive::tar(layer);
        diff_ids.push(Digest::of(&tar).to_string());
        let kind = match layer.compression {
            Compression::Plain => "",
            Compression::Gzip | Compression::GzipMembers => "+gzip",
            Compression::Zstd | Compression::ZstdFrames => "+zstd",
        };
        let kind = format!("application/vnd.oci.image.layer.v1.tar{kind}");
        layers.push(layout.blob(&compressed(&tar, layer.compression), &kind));
    }
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "config": {},
    });
    let config = layout.document(&config, "application/vnd.oci.image.config.v1+json");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers,
    });
    let mut manifest = layout.document(&manifest, kind);
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    let version = json!({ "imageLayoutVersion": "1.0.0" });
    fs::write(directory.join("oci-layout"), version.to_string()).unwrap();
}

struct Layout {
    blobs: PathBuf,
}

impl Layout {
    fn blob(&self, bytes: &[u8], kind: &str) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.blobs.join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": kind, "digest": digest.to_string(), "size": bytes.len() })
    }

    fn document(&self, value: &Value, kind: &str) -> Value {
        self.blob(value.to_string().as_bytes(), kind)
    }
}

fn compressed(tar: &[u8], compression: Compression) -> Vec<u8> {
    let gzip = |data: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
    // Cuts at an offset that may fall inside a header or inside content.
    let (one, two) = tar.split_at((tar.len() / 3 + 7).min(tar.len()));
    match compression {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => gzip(tar),
        Compression::GzipMembers => [gzip(one), gzip(b""), gzip(two)].concat(),
        Compression::Zstd => zstd(tar),
        Compression::ZstdFrames => {
            let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
            [zstd(one), skippable.to_vec(), zstd(two)].concat()
        }
    }
}
