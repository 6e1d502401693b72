//! Damage of every file of a store: what a lookup, a reader and a writer make of it.

use std::fs;
use std::io::Read;

use microagent_cas::{Digest, Input, KeyMaterial, NodeRecord, Output, Store};

use super::verify::{fill, overwrite};
use super::{blobs, key, names, store};

fn record(store: &Store, op: &str, inputs: &[Digest], outputs: &[&[u8]]) -> NodeRecord {
    let inputs: Vec<_> = (inputs.iter())
        .map(|digest| Input {
            name: "input".into(),
            digest: *digest,
        })
        .collect();
    let material = KeyMaterial {
        op,
        op_version: 1,
        params: &serde_json::Value::Null,
        inputs: &inputs,
        platform: None,
    };
    let outputs = (outputs.iter())
        .map(|bytes| {
            let name = String::from_utf8_lossy(bytes).into_owned();
            (name, store.put_bytes(bytes).unwrap().into())
        })
        .collect();
    let record = NodeRecord::new(store, &material, outputs, 1).unwrap();
    store.record_node(&record).unwrap();
    record
}

#[test]
fn a_lookup_hashes_what_was_written_to_and_sets_damage_aside() {
    let whole = serde_json::json!("whole");
    for which in 0..3 {
        let (_dir, store) = store();
        let (blob, sparse) = fill(&store);
        let map = Output::Blob(sparse.digest());
        let (bad, offset) = [(blob, 3), (sparse, (32 << 20) + 1), (map, 5)][which];
        overwrite(&store, &bad, offset);
        assert!(!store.is_intact(&bad).unwrap());
        assert_eq!(store.node(&key(&whole)).unwrap(), None);
        assert_eq!(store.take_damage(), [store.output_path(&bad)]);
        assert_eq!(names(&store, "quarantine").len(), 1);
        fill(&store);
        assert!(store.node(&key(&whole)).unwrap().is_some());
        assert_eq!(store.take_damage(), [] as [std::path::PathBuf; 0]);
    }
}

/// A store that was copied without the files' times.
#[test]
fn an_object_with_another_time_is_hashed_once() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"content").unwrap();
    let path = store.blob_path(&digest);
    let sealed = fs::metadata(&path).unwrap().modified().unwrap();
    let file = fs::File::open(&path).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    assert!(store.is_intact(&digest.into()).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), sealed);
}

#[test]
fn a_writer_replaces_a_damaged_object_of_the_same_length() {
    let (_dir, store) = store();
    let (blob, sparse) = fill(&store);
    for (object, offset) in [(blob, 3), (sparse, (32 << 20) + 1)] {
        overwrite(&store, &object, offset);
        fill(&store);
        assert!(store.is_intact(&object).unwrap(), "{object}");
    }
    let path = store.blob_path(&blob.digest());
    let before = fs::metadata(&path).unwrap();
    let mut writer = store.writer().unwrap();
    std::io::Write::write_all(&mut writer, b"the output").unwrap();
    writer.commit(None).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino;
    let after = fs::metadata(&path).unwrap();
    assert_eq!(inode(&before), inode(&after), "the right one is kept");
    assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
}

#[test]
fn a_reader_verifies_what_it_has_read_and_the_rest() {
    let (_dir, store) = store();
    let bytes = vec![7; 1 << 20];
    let digest = store.put_bytes(&bytes).unwrap();
    let read_head = || {
        let mut reader = store.verified_reader(&digest).unwrap().unwrap();
        reader.read_exact(&mut [0; 1000]).unwrap();
        reader.finish()
    };
    read_head().unwrap();
    store.verify_blobs(&[digest]).unwrap();
    for offset in [0, 999, 1000, (1 << 20) - 1] {
        overwrite(&store, &digest.into(), offset);
        let error = read_head().unwrap_err().to_string();
        assert!(error.contains("is damaged: digest mismatch"), "{error}");
        assert!(store.verified_reader(&digest).unwrap().is_none());
        assert_eq!(store.put_bytes(&bytes).unwrap(), digest);
    }
    overwrite(&store, &digest.into(), 5);
    let error = store.verify_blobs(&[digest]).unwrap_err().to_string();
    assert!(error.contains("is damaged: digest mismatch"), "{error}");
}

/// Any byte, and also a changed byte that leaves valid JSON.
#[test]
fn a_damaged_record_is_ignored() {
    let (_dir, store) = store();
    let record = record(&store, "op", &[], &[b"a", b"b"]);
    let path = store
        .root()
        .join(format!("nodes/{}.json", record.key().digest().hex()));
    let right = fs::read(&path).unwrap();
    let parsed: NodeRecord = serde_json::from_slice(&right).unwrap();
    assert_eq!(parsed, record, "the file is the record as JSON");
    for at in 0..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        fs::write(&path, &wrong).unwrap();
        assert_eq!(store.node(&record.key()).unwrap(), None, "byte {at}");
    }
    fs::write(&path, &right[..right.len() - 1]).unwrap();
    assert_eq!(store.node(&record.key()).unwrap(), None);
    fs::write(&path, "").unwrap();
    assert_eq!(store.node(&record.key()).unwrap(), None);
    fs::write(&path, &right).unwrap();
    assert_eq!(store.node(&record.key()).unwrap(), Some(record.clone()));
    // Written before there were checksums.
    let old = NodeRecord {
        format: 2,
        ..record.clone()
    };
    fs::write(&path, serde_json::to_vec(&old).unwrap()).unwrap();
    assert_eq!(store.node(&record.key()).unwrap(), Some(old));
}

#[test]
fn a_damaged_chunk_map_makes_its_disk_unverifiable() {
    let (_dir, store) = store();
    let (_, sparse) = fill(&store);
    overwrite(&store, &Output::Blob(sparse.digest()), 5);
    let repaired = store.repair(&|_| {}).unwrap();
    assert!(repaired.problems.iter().all(|problem| problem.repaired));
    assert_eq!(names(&store, "sparse"), [""; 0]);
    assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
}

#[test]
fn repair_drops_everything_that_was_built_from_a_damaged_object() {
    let (_dir, store) = store();
    let layer = Digest::of(b"layer");
    record(&store, "fetch", &[], &[b"layer"]);
    record(&store, "unpack", &[layer], &[b"tar", b"index"]);
    record(&store, "rootfs", &[Digest::of(b"tar")], &[b"disk"]);
    record(&store, "snapshot", &[Digest::of(b"disk")], &[b"ram"]);
    let other = record(&store, "other", &[Digest::of(b"elsewhere")], &[b"kept"]);
    let kept = |bad: &[u8], expected: usize| {
        overwrite(&store, &Digest::of(bad).into(), 0);
        let repaired = store.repair(&|_| {}).unwrap();
        assert!(repaired.problems.iter().all(|problem| problem.repaired));
        assert_eq!(names(&store, "nodes").len(), expected, "{repaired:?}");
        assert!(!blobs(&store).contains(&Digest::of(bad).hex()));
        assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
    };
    kept(b"ram", 4);
    // Not in the key of what was built from it.
    kept(b"index", 2);
    kept(b"layer", 1);
    assert!(store.node(&other.key()).unwrap().is_some());
}

#[test]
fn documents_and_directories_that_are_deleted_come_back() {
    let (_dir, store) = store();
    fill(&store);
    let root = store.root().to_owned();
    drop(store);
    let entries: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(entries.len(), 14);
    for path in entries {
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        let store = Store::open(&root).unwrap();
        assert!(path.exists(), "{}", path.display());
        fill(&store);
        assert!(
            store
                .node(&key(&serde_json::json!("whole")))
                .unwrap()
                .is_some()
        );
        assert_eq!(store.index().unwrap().manifests().len(), 0);
        assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
    }
}

#[test]
fn damaged_documents_are_reported_and_repaired() {
    let (_dir, store) = store();
    let (blob, _) = fill(&store);
    let value = serde_json::Value::Null;
    store.set_root("default-kernel", vec![blob], value).unwrap();
    for (name, why) in [
        ("index.json", "not an image index"),
        ("roots/default-kernel.json", "not a root record"),
    ] {
        fs::write(store.root().join(name), "{").unwrap();
        // What must be kept is unknown.
        let refused = store.collect(&microagent_cas::GcOptions::default());
        let error = refused.unwrap_err();
        assert_eq!(
            error.remediation().unwrap(),
            "repair the store with: microagent cache verify --repair"
        );
        let repaired = store.repair(&|_| {}).unwrap();
        let found: Vec<_> = (repaired.problems.iter())
            .map(|problem| (problem.why.as_str(), problem.repaired))
            .collect();
        assert_eq!(found, [(why, true)]);
        assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
    }
    assert_eq!(store.index().unwrap().manifests().len(), 0);
    store
        .collect(&microagent_cas::GcOptions::default())
        .unwrap();
}
