//! Blobs, and the layout as read by skopeo.

use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;

use microagent_cas::{Digest, Store, StoreError};
use oci_spec::image::{Descriptor, MediaType};

use super::{blobs, hex_of, names, store};

#[test]
fn a_blob_written_in_parts_is_stored_read_only_under_its_digest() {
    let (_dir, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"hello ").unwrap();
    assert_eq!(blobs(&store), [""; 0], "absent until committed");
    writer.write_all(b"world").unwrap();
    let digest = Digest::of(b"hello world");
    assert_eq!(writer.commit(Some(&digest)).unwrap(), (digest, 11));
    let metadata = std::fs::metadata(store.blob_path(&digest)).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o444);
    assert_eq!(
        store.read_blob(&digest, 11).unwrap().unwrap(),
        b"hello world"
    );
    assert_eq!(store.open_blob(&digest).unwrap().unwrap().size, 11);
    assert_eq!(names(&store, "tmp"), [""; 0]);
}

#[test]
fn a_scratch_file_becomes_a_blob_and_keeps_its_holes() {
    let (_dir, store) = store();
    let scratch = store.scratch().unwrap();
    scratch.file().set_len(8 << 20).unwrap();
    scratch.file().write_all_at(b"end", (8 << 20) - 3).unwrap();
    let (digest, size) = scratch.commit().unwrap();
    let mut bytes = vec![0; 8 << 20];
    bytes[(8 << 20) - 3..].copy_from_slice(b"end");
    assert_eq!((digest, size), (Digest::of(&bytes), 8 << 20));
    let blocks = Command::new("du")
        .arg("-k")
        .arg(store.blob_path(&digest))
        .output()
        .unwrap();
    let blocks = String::from_utf8(blocks.stdout).unwrap();
    let kib: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib <= 64, "{kib} KiB on disk");
}

#[test]
fn a_digest_mismatch_is_an_error_and_stores_nothing() {
    let (_dir, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"something").unwrap();
    let (expected, actual) = (Digest::of(b"else"), Digest::of(b"something"));
    let error = writer.commit(Some(&expected)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("digest mismatch: expected {expected}, got {actual}")
    );
    assert_eq!(blobs(&store), [""; 0]);
    assert_eq!(names(&store, "tmp"), [""; 0]);
}

#[test]
fn small_documents_are_limited_in_size_and_verified() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"0123456789").unwrap();
    let path = store.blob_path(&digest);
    assert_eq!(store.read_blob(&Digest::of(b"absent"), 10).unwrap(), None);
    let error = store.read_blob(&digest, 9).unwrap_err();
    let message = format!("{} is 10 bytes, over the limit of 9", path.display());
    assert_eq!(error.to_string(), message);
    assert_eq!(store.verify_blob(&digest).unwrap(), Some(10));

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"0123456780").unwrap();
    let flipped = Digest::of(b"0123456780");
    let message = format!(
        "{} is damaged: digest mismatch: got {flipped}",
        path.display()
    );
    let error = store.verify_blob(&digest).unwrap_err();
    assert_eq!(error.to_string(), message);
    // A reader sets it aside, so that it is fetched or made again.
    assert_eq!(store.read_blob(&digest, 10).unwrap(), None);
    assert_eq!(store.take_damage(), [path]);
    assert_eq!(store.verify_blob(&digest).unwrap(), None);
}

#[test]
fn writing_replaces_a_truncated_blob() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"0123456789").unwrap();
    let path = store.blob_path(&digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"0123").unwrap();
    assert_eq!(store.put_bytes(b"0123456789").unwrap(), digest);
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
}

#[test]
fn refuses_a_store_of_a_newer_version() {
    let (_dir, store) = store();
    let path = store.root().join("store.json");
    std::fs::write(&path, br#"{"format":1,"incompatible":["chunked-blobs"]}"#).unwrap();
    let error = Store::open(store.root()).unwrap_err();
    assert!(matches!(&error, StoreError::NewerFormat { .. }));
    let why = "unknown feature \"chunked-blobs\"";
    let message = format!("{} was written by a newer version: {why}", path.display());
    assert_eq!(error.to_string(), message);
}

#[test]
fn roots_keep_their_blobs_and_value() {
    let (_dir, store) = store();
    let blob = store.put_bytes(b"kernel").unwrap();
    assert_eq!(store.get_root("default-kernel").unwrap(), None);
    let value = serde_json::json!({"version": "6.1"});
    store
        .set_root("default-kernel", vec![blob.into()], value.clone())
        .unwrap();
    let root = store.get_root("default-kernel").unwrap().unwrap();
    assert_eq!((root.blobs, root.value), (vec![blob.into()], value));
    assert!(
        store
            .set_root("../x", vec![], serde_json::json!(0))
            .is_err()
    );
}

/// Tags a minimal image that conforms to the OCI image specification.
fn tag_image(store: &Store, name: &str, author: &str) -> Digest {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","author":"{author}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let config_digest = store.put_bytes(config.as_bytes()).unwrap();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let digest = store.put_bytes(manifest.as_bytes()).unwrap();
    let oci_digest: oci_spec::image::Digest = digest.to_string().parse().unwrap();
    let size = manifest.len() as u64;
    let descriptor = Descriptor::new(MediaType::ImageManifest, size, oci_digest);
    store.tag(name, descriptor).unwrap();
    digest
}

fn skopeo(store: &Store, args: &[&str], image: &str) -> serde_json::Value {
    let reference = format!("oci:{}:{image}", store.root().display());
    let output = Command::new("skopeo")
        .args(args)
        .arg(&reference)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn skopeo_reads_the_store_by_tag() {
    let (_dir, store) = store();
    let first = tag_image(&store, "docker.io/library/busybox:1.36", "first");
    tag_image(&store, "other:latest", "other");
    let inspected = skopeo(&store, &["inspect"], "docker.io/library/busybox:1.36");
    assert_eq!(inspected["Digest"], first.to_string());
    let config = skopeo(&store, &["inspect", "--config"], "other:latest");
    assert_eq!(config["author"], "other");

    let moved = tag_image(&store, "docker.io/library/busybox:1.36", "moved");
    let inspected = skopeo(&store, &["inspect"], "docker.io/library/busybox:1.36");
    assert_eq!(inspected["Digest"], moved.to_string());
    assert_eq!(store.index().unwrap().manifests().len(), 2);
    assert!(
        blobs(&store).contains(&first.hex()),
        "the old image is kept"
    );
}

#[test]
fn concurrent_tags_are_all_kept() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let store = &store;
            scope.spawn(move || tag_image(store, &format!("image:{number}"), "same"));
        }
    });
    assert_eq!(store.index().unwrap().manifests().len(), 16);
    let documents = ["manifest", "config"].len();
    assert_eq!(blobs(&store).len(), documents, "all tags name one image");
    assert_ne!(blobs(&store)[0], hex_of(b""));
}
