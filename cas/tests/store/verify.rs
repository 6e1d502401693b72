//! Verification, repair and collection of whole stores.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;

use microagent_cas::{GcOptions, Input, KeyMaterial, NodeRecord, Output, Store};

use super::{blobs, key, material, names, store};

/// Stores a node with a blob and a sparse file.
pub(super) fn fill(store: &Store) -> (Output, Output) {
    let blob = Output::Blob(store.put_bytes(b"the output").unwrap());
    let scratch = store.scratch().unwrap();
    scratch.file().set_len(64 << 20).unwrap();
    scratch.file().write_all_at(b"disk", 32 << 20).unwrap();
    let (sparse, _) = scratch.commit_sparse().unwrap();
    let outputs = [("blob".to_owned(), blob), ("disk".to_owned(), sparse)].into();
    let params = serde_json::json!("whole");
    let record = NodeRecord::new(store, &material(&params), outputs, 1).unwrap();
    store.record_node(&record).unwrap();
    (blob, sparse)
}

pub(super) fn overwrite(store: &Store, output: &Output, offset: u64) {
    let path = store.output_path(output);
    let mode = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(&path, permissions).unwrap();
    };
    mode(0o644);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"X", offset).unwrap();
    mode(0o444);
}

#[test]
fn an_intact_store_has_no_problems_and_all_bytes_are_reported() {
    let (_dir, store) = store();
    fill(&store);
    let advanced = std::sync::atomic::AtomicU64::new(0);
    let found = store
        .verify(&|bytes| {
            advanced.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!(found.problems, []);
    assert_eq!((found.objects, found.nodes), (3, 1), "blob, map, disk");
    assert_eq!(advanced.into_inner(), found.bytes);
}

#[test]
fn a_flipped_bit_is_quarantined_and_its_node_removed() {
    for which in 0..2 {
        let (_dir, store) = store();
        let (blob, sparse) = fill(&store);
        let (bad, offset) = [(blob, 3), (sparse, (32 << 20) + 1)][which];
        overwrite(&store, &bad, offset);
        let whole = serde_json::json!("whole");
        let found = store.verify(&|_| {}).unwrap();
        let paths: Vec<_> = found.problems.iter().map(|p| p.path.clone()).collect();
        let node = store
            .root()
            .join(format!("nodes/{}.json", key(&whole).digest().hex()));
        let mut expected = vec![store.output_path(&bad), node];
        expected.sort();
        assert_eq!(paths, expected);
        assert!(found.problems.iter().all(|problem| !problem.repaired));

        let repaired = store.repair(&|_| {}).unwrap();
        assert_eq!(repaired.problems.len(), 2);
        assert!(repaired.problems.iter().all(|problem| problem.repaired));
        assert_eq!(store.node(&key(&whole)).unwrap(), None);
        assert_eq!(names(&store, "quarantine").len(), 1);
        assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
        // The rebuilt object takes its place.
        fill(&store);
        assert!(store.node(&key(&whole)).unwrap().is_some());
        assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
    }
}

#[test]
fn a_root_whose_object_is_missing_is_set_aside() {
    let (_dir, store) = store();
    let (blob, _) = fill(&store);
    store
        .set_root("default-kernel", vec![blob], serde_json::Value::Null)
        .unwrap();
    fs::remove_file(store.output_path(&blob)).unwrap();
    let repaired = store.repair(&|_| {}).unwrap();
    let problems: Vec<_> = (repaired.problems.iter())
        .map(|problem| (problem.why.clone(), problem.repaired))
        .collect();
    assert_eq!(
        problems,
        [
            (format!("output {blob} is missing"), true),
            (format!("kept object {blob} is missing"), true),
        ]
    );
    assert_eq!(store.get_root("default-kernel").unwrap(), None);
    let aside = store.root().join("quarantine/default-kernel.json");
    assert!(
        fs::read_to_string(aside)
            .unwrap()
            .contains(&blob.digest().hex())
    );
    assert_eq!(store.verify(&|_| {}).unwrap().problems, []);
}

#[test]
fn a_lookup_counts_as_use_and_the_least_recently_used_node_is_collected() {
    let (_dir, store) = store();
    let record = |name: &str| {
        let inputs = [Input {
            name: name.into(),
            digest: microagent_cas::Digest::of(b""),
        }];
        let material = KeyMaterial {
            op: "test",
            op_version: 1,
            params: &serde_json::Value::Null,
            inputs: &inputs,
            platform: None,
        };
        let output = store.put_bytes(name.repeat(5000).as_bytes()).unwrap();
        let outputs = [("test".to_owned(), output.into())].into();
        let record = NodeRecord::new(&store, &material, outputs, 0).unwrap();
        store.record_node(&record).unwrap();
        record
    };
    let (first, second) = (record("first"), record("second"));
    for (record, ago) in [(&first, 3000), (&second, 2000)] {
        let path = format!("nodes/{}.json", record.key().digest().hex());
        let file = fs::File::open(store.root().join(path)).unwrap();
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(ago);
        file.set_modified(then).unwrap();
    }
    assert!(store.node(&first.key()).unwrap().is_some());
    // As another process, without a lease.
    let root = store.root().to_owned();
    drop(store);
    let store = Store::open(&root).unwrap();
    let options = microagent_cas::GcOptions {
        unused_for: Some(std::time::Duration::from_secs(1500)),
        ..Default::default()
    };
    let dry = store
        .collect(&microagent_cas::GcOptions {
            dry_run: true,
            ..options
        })
        .unwrap();
    assert_eq!(dry.nodes, [(second.key(), "test".to_owned())]);
    assert_eq!(blobs(&store).len(), 2, "a dry run removes nothing");
    let report = store.collect(&options).unwrap();
    assert_eq!(
        report,
        microagent_cas::GcReport {
            leftovers: report.leftovers,
            ..dry
        }
    );
    assert!(store.node(&first.key()).unwrap().is_some());
    assert_eq!(blobs(&store), [first.outputs["test"].digest().hex()]);
}

/// A sparse file is useless without its map, so it is removed before it.
#[test]
fn an_aborted_collection_leaves_nothing_damaged() {
    let (_dir, store) = store();
    let (_, sparse) = fill(&Store::open(store.root()).unwrap());
    // Blocks the rename of the sparse file.
    let name = format!("tmp/gc-sparse-{}/taken", sparse.digest().hex());
    fs::create_dir_all(store.root().join(&name)).unwrap();
    let everything = GcOptions {
        max_size: Some(0),
        ..GcOptions::default()
    };
    store.collect(&everything).unwrap_err();
    // Through a handle of its own, so that its lease ends with it.
    let verifier = Store::open(store.root()).unwrap();
    assert_eq!(verifier.verify(&|_| ()).unwrap().problems, []);
    drop(verifier);

    fs::remove_dir_all(store.root().join(&name).parent().unwrap()).unwrap();
    store.collect(&everything).unwrap();
    assert_eq!(store.inventory().unwrap().objects, BTreeMap::new());
}
