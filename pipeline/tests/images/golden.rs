//! Golden digests: what a fixed image, bundle and guest agent become, byte for byte, and under
//! which keys.
//!
//! A key names bytes, in stores that exist and on other machines. So bytes that change for the same
//! key are an error, and the version in the key must rise. This test compares every output with
//! `golden.txt`, a line each: operation and output, key, digest. If it fails
//! - and a digest differs under the same key: raise the version that the message names;
//! - and only keys or outputs are new: look at the difference, then record it with
//!   `MICROAGENT_RECORD_GOLDEN=1 cargo test -p microagent-pipeline --test images golden::`.
//!   A changed digest under an unchanged key is not recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use microagent_cas::Digest;
use microagent_pipeline::{BundleOptions, Kernel, RootfsOptions};
use microagent_tests::image::Tar;
use tar::EntryType;

use crate::support::{TestDir, build_with};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images/golden.txt");
const RECORD: &str = "MICROAGENT_RECORD_GOLDEN";

/// A record of an extended PAX header.
fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != length.to_string().len() + rest.len() {
            length = length.to_string().len() + rest.len();
        }
        format!("{length}{rest}")
    };
    records.iter().map(record).collect::<String>().into_bytes()
}

/// Every type of file, names at their limits, extended attributes, exact times.
fn lower() -> Vec<u8> {
    let long = format!("long/{}/{}", "d".repeat(200), "f".repeat(250));
    let attributes = pax(&[
        ("mtime", "1234567890.987654321"),
        ("SCHILY.xattr.user.name", "value"),
        ("path", &long),
    ]);
    Tar::new()
        .directory("etc/")
        .file("etc/removed", b"removed by the layer above")
        .file("etc/kept", b"kept")
        .file("etc/large", &[7; 100_000])
        .hard_link("etc/second", "etc/large")
        .symlink("etc/link", "large")
        .entry("dev/null", EntryType::Char, "", b"")
        .entry("run/fifo", EntryType::Fifo, "", b"")
        .entry("././@PaxHeader", EntryType::XHeader, "", &attributes)
        .file("replaced", b"content")
        .directory("opaque/")
        .file("opaque/hidden", b"hidden")
        .finish()
}

fn upper() -> Vec<u8> {
    Tar::new()
        .file("etc/.wh.removed", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/seen", b"seen")
        .file("etc/kept", b"replaced by a longer content")
        .finish()
}

/// An image layout, written by hand: no tool's version is part of it.
fn layout(directory: &Path) {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest, bytes.len())
    };
    let layers = [lower(), upper()].map(|layer| put(&layer));
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.map(|(digest, _)| digest)},
    });
    let descriptor = |kind: &str, (digest, size): (Digest, usize)| {
        let media_type = format!("application/vnd.oci.image.{kind}");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
    };
    let config = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": layers.map(|layer| descriptor("layer.v1.tar", layer)),
    });
    let mut entry = descriptor("manifest.v1+json", put(manifest.to_string().as_bytes()));
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "golden"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    fs::write(
        directory.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

/// The smallest file that is a static x86-64 executable: an ELF header.
fn agent() -> Vec<u8> {
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    elf[16] = 2; // ET_EXEC
    elf[18] = 62; // EM_X86_64
    elf[20] = 1; // the version
    elf[24] = 1; // the entry point
    elf[52] = 64; // the size of this header
    elf
}

/// Builds everything in a new store; returns the digest of each output under operation, name and
/// key.
fn outputs() -> BTreeMap<String, String> {
    let dir = TestDir::new();
    let pipeline = dir.pipeline();
    layout(&dir.path("layout"));
    let reference = format!("oci:{}:golden", dir.path("layout").display());
    for size_mib in [None, Some(64)] {
        let options = RootfsOptions {
            size_mib,
            ..RootfsOptions::default()
        };
        build_with(&pipeline, &reference, &options).unwrap();
    }
    let bundle = dir.path("bundle.tar");
    fs::write(&bundle, lower()).unwrap();
    for writable in [false, true] {
        let options = BundleOptions {
            path: bundle.clone(),
            name: "data".into(),
            mount: "/data".into(),
            writable,
        };
        pipeline.bundle(&options).unwrap();
    }
    let file = dir.path("agent");
    fs::write(&file, agent()).unwrap();
    let modules = Tar::new().file("a.ko", b"module a").finish();
    let modules = pipeline.store().put_bytes(&modules).unwrap();
    for modules in [None, Some(modules)] {
        let kernel = Kernel {
            digest: Digest::of(b"kernel"),
            path: dir.path("kernel"),
            modules,
            modules_disk: None,
            version: None,
            source: "golden".into(),
        };
        pipeline.initramfs(&file, &kernel).unwrap();
    }
    let mut found = BTreeMap::new();
    for (key, node) in pipeline.store().inventory().unwrap().nodes {
        let record = node.record;
        if ["resolve", "fetch", "localFile"].contains(&record.op.as_str()) {
            continue;
        }
        for (name, output) in &record.outputs {
            found.insert(format!("{}.{name} {key}", record.op), output.to_string());
        }
    }
    found
}

#[test]
fn the_same_key_has_the_same_bytes() {
    let found = outputs();
    let count = |op: &str| found.keys().filter(|line| line.starts_with(op)).count();
    let counts = ["unpack.", "rootfs.", "bundle.", "initramfs."].map(count);
    assert_eq!(counts, [4, 2, 2, 2], "{found:#?}");
    let golden = fs::read_to_string(GOLDEN).unwrap_or_default();
    let golden: BTreeMap<String, String> = golden
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect();
    for (name, digest) in &found {
        let recorded = golden.get(name).unwrap_or(digest);
        assert_eq!(
            digest, recorded,
            "{name}: the bytes have changed under the same key. Raise the version of what changed \
             (READER_VERSION, INDEX_FORMAT, MERGE_VERSION, WRITER, or OP_VERSION of the operation)"
        );
    }
    if std::env::var_os(RECORD).is_some() {
        let lines = found
            .iter()
            .map(|(name, digest)| format!("{name} {digest}\n"));
        fs::write(GOLDEN, lines.collect::<String>()).unwrap();
    } else {
        assert_eq!(found, golden, "record what is new with {RECORD}=1");
    }
}
