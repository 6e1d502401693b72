//! Several processes on one store, some of them killed while they write.
//!
//! A child is this test binary, with its role in the environment; it reports its progress on
//! standard output, so that no test depends on time.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use microagent_cas::{Digest, GcOptions, NodeRecord, Store, SweepReport};

use super::{blobs, hex_of, key, material, names, store};

const ROLE: &str = "MICROAGENT_TEST_ROLE";
const ROOT: &str = "MICROAGENT_TEST_STORE";

fn spawn(role: &str, root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--nocapture"])
        .env(ROLE, role)
        .env(ROOT, root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads until the child has printed `word` on a line.
fn wait_for(stdout: &mut BufReader<ChildStdout>, word: &str) {
    let mut line = String::new();
    while line.trim_end() != word {
        line.clear();
        assert_ne!(
            stdout.read_line(&mut line).unwrap(),
            0,
            "the child exited before {word:?}"
        );
    }
}

fn report(word: &str) {
    println!("\n{word}");
    std::io::stdout().flush().unwrap();
}

/// Waits until the parent kills this process or closes its standard input.
fn hold() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// The entry point of the children.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let store = Store::open(Path::new(&std::env::var_os(ROOT).unwrap())).unwrap();
    match role.as_str() {
        "compute" => {
            // The parent starts all at once by closing their standard input.
            report("ready");
            hold();
            compute(&store);
        }
        "build" => build(&store),
        "write" => {
            store.put_bytes(b"leased").unwrap();
            let mut writer = store.writer().unwrap();
            writer.write_all(&vec![7; 1 << 20]).unwrap();
            let scratch = store.scratch().unwrap();
            scratch.file().set_len(1 << 20).unwrap();
            let dir = store.scratch_dir().unwrap();
            std::fs::create_dir_all(dir.path().join("deep/er")).unwrap();
            std::fs::write(dir.path().join("deep/er/file"), "left").unwrap();
            let _lock = store.lock_node(&key(&serde_json::json!("held"))).unwrap();
            report("writing");
            hold();
        }
        other => panic!("unknown role {other}"),
    }
}

/// Computes a node as the pipeline does; each computation appends a line to a file.
fn compute(store: &Store) {
    let params = serde_json::json!({"what": "once"});
    let key = key(&params);
    if store.node(&key).unwrap().is_some() {
        return;
    }
    let _lock = store.lock_node(&key).unwrap();
    if store.node(&key).unwrap().is_some() {
        return;
    }
    let log = store.root().with_file_name("computed");
    let mut log = std::fs::File::options()
        .append(true)
        .create(true)
        .open(log)
        .unwrap();
    writeln!(log, "{}", std::process::id()).unwrap();
    let output = store.put_bytes(b"the output").unwrap();
    let outputs = [("test".to_owned(), output.into())].into();
    let record = NodeRecord::new(store, &material(&params), outputs, 0).unwrap();
    store.record_node(&record).unwrap();
}

/// Looks up or computes 200 nodes of one blob each, as the pipeline does. Every blob found or
/// stored must exist until the process exits.
fn build(store: &Store) {
    report("ready");
    for number in 0..200 {
        let params = serde_json::json!({"number": number});
        let bytes = format!("output {number}");
        let key = key(&params);
        if store.node(&key).unwrap().is_none() {
            let output = store.put_bytes(bytes.as_bytes()).unwrap();
            let outputs = [("test".to_owned(), output.into())].into();
            let record = NodeRecord::new(store, &material(&params), outputs, 0).unwrap();
            store.record_node(&record).unwrap();
        }
        for earlier in (0..=number).step_by(7) {
            let bytes = format!("output {earlier}");
            let found = store.read_blob(&Digest::of(bytes.as_bytes()), 100);
            assert!(found.unwrap().is_some(), "{earlier} of {number}");
        }
    }
}

#[test]
fn concurrent_collections_keep_objects_in_use_by_running_processes() {
    let (_dir, store) = store();
    let everything = GcOptions {
        max_size: Some(0),
        ..GcOptions::default()
    };
    let mut children: Vec<_> = (0..3).map(|_| spawn("build", store.root())).collect();
    let mut outputs: Vec<_> = (children.iter_mut())
        .map(|child| BufReader::new(child.stdout.take().unwrap()))
        .collect();
    outputs
        .iter_mut()
        .for_each(|output| wait_for(output, "ready"));
    let mut collections = 0;
    while children
        .iter_mut()
        .any(|child| child.try_wait().unwrap().is_none())
    {
        store.collect(&everything).unwrap();
        collections += 1;
    }
    assert!(collections > 3, "{collections}");
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    // Nothing is in use now.
    let report = store.collect(&everything).unwrap();
    assert_eq!((report.kept, report.held), (0, 0));
    assert_eq!((blobs(&store).len(), names(&store, "nodes").len()), (0, 0));
    assert_eq!(names(&store, "leases"), [""; 0]);
}

/// A process may record its node and exit between any two steps of a collection: a record that is
/// kept must have its outputs, whatever the collection saw.
#[test]
fn a_collection_keeps_the_outputs_of_records_written_concurrently() {
    const WRITERS: u64 = 2;
    const NODES: u64 = 400;
    let (_dir, store) = store();
    // Enough that listing the nodes takes longer than recording one and exiting.
    for number in 0..300 {
        record(&store, number);
    }
    let everything = GcOptions {
        max_size: Some(0),
        ..GcOptions::default()
    };
    let writing = AtomicU64::new(WRITERS);
    std::thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (root, writing) = (store.root(), &writing);
            scope.spawn(move || {
                for number in 0..NODES {
                    record(&Store::open(root).unwrap(), (writer << 32) + number);
                }
                writing.fetch_sub(1, Ordering::Release);
            });
        }
        while writing.load(Ordering::Acquire) > 0 {
            let collector = Store::open(store.root()).unwrap();
            collector.collect(&everything).unwrap();
            assert_eq!(collector.verify(&|_| ()).unwrap().problems, []);
        }
    });
}

/// Stores a node with a sparse file that contains `number`.
fn record(store: &Store, number: u64) {
    let scratch = store.scratch().unwrap();
    scratch
        .file()
        .write_all_at(&number.to_le_bytes(), 0)
        .unwrap();
    let (output, _) = scratch.commit_sparse().unwrap();
    let params = serde_json::json!({ "number": number });
    let outputs = BTreeMap::from([("file".to_owned(), output)]);
    let record = NodeRecord::new(store, &material(&params), outputs, 0).unwrap();
    store.record_node(&record).unwrap();
}

#[test]
fn a_lease_ends_with_its_process() {
    let (_dir, store) = store();
    let mut child = spawn("write", store.root());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut stdout, "writing");
    let leased = Digest::of(b"leased");
    assert_eq!(blobs(&store), [leased.hex()]);
    assert_eq!(store.collect(&GcOptions::default()).unwrap().objects, []);
    child.kill().unwrap();
    child.wait().unwrap();
    let report = store.collect(&GcOptions::default()).unwrap();
    assert_eq!(report.objects[0].0, leased.into());
    // The lease, the scratch directory, the node lock.
    assert_eq!(report.leftovers, 3);
    assert_eq!(names(&store, "leases"), [""; 0]);
    assert_eq!(blobs(&store), [""; 0]);
}

/// Runs `count` children that compute the same node concurrently.
fn compute_at_once(root: &Path, count: usize) {
    let mut children: Vec<_> = (0..count).map(|_| spawn("compute", root)).collect();
    let mut outputs = Vec::new();
    for child in &mut children {
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut stdout, "ready");
        outputs.push(stdout);
    }
    for child in &mut children {
        drop(child.stdin.take());
    }
    for (child, output) in children.iter_mut().zip(&mut outputs) {
        output.read_to_string(&mut String::new()).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn concurrent_processes_compute_a_node_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let root = dir.path().join(round.to_string()).join("cas");
        compute_at_once(&root, 6);
        let log = std::fs::read_to_string(root.with_file_name("computed")).unwrap();
        assert_eq!(log.lines().count(), 1, "{log}");
        let store = Store::open(&root).unwrap();
        let record = store
            .node(&key(&serde_json::json!({"what": "once"})))
            .unwrap()
            .unwrap();
        assert_eq!(record.outputs["test"].digest().hex(), hex_of(b"the output"));
        assert_eq!((blobs(&store).len(), names(&store, "tmp").len()), (1, 0));
    }
}

#[test]
fn a_killed_writer_leaves_no_blob_and_a_sweep_removes_its_files() {
    let (_dir, store) = store();
    let mut child = spawn("write", store.root());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut stdout, "writing");

    // A sweep keeps the files of a running process.
    assert_eq!(store.sweep().unwrap(), SweepReport::default());
    assert_eq!(names(&store, "tmp").len(), 1, "the scratch directory");
    let file = std::fs::read_dir(store.root().join("tmp"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(file.path().join("deep/er/file").exists());

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(blobs(&store), [hex_of(b"leased")]);
    assert_eq!(
        store.sweep().unwrap(),
        SweepReport {
            temporaries: 1,
            locks: 1
        }
    );
    assert_eq!(names(&store, "tmp"), [""; 0]);
    // The lock was released with the process.
    drop(store.lock_node(&key(&serde_json::json!("held"))).unwrap());
    assert_eq!(names(&store, "locks"), ["gc", "store", "tmp"]);
}

#[test]
fn concurrent_processes_create_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/cas");
    compute_at_once(&root, 6);
    let store = Store::open(&root).unwrap();
    assert_eq!(
        names(&store, ""),
        [
            "blobs",
            "index.json",
            "known",
            "leases",
            "locks",
            "nodes",
            "oci-layout",
            "partial",
            "quarantine",
            "roots",
            "sparse",
            "store.json",
            "subjects",
            "tmp"
        ]
    );
    assert_eq!(store.index().unwrap().manifests().len(), 0);
}
