//! Several processes on one store, some of them killed in the middle.
//!
//! A child is this test binary again, told by the environment which part to play; it says on its
//! standard output how far it is, so nobody waits for a clock.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use microagent_cas::{Digest, GcOptions, NodeRecord, Store, Swept};

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

/// Reads until the child has said `word` on a line of its own.
fn wait_for(stdout: &mut BufReader<ChildStdout>, word: &str) {
    let mut line = String::new();
    while line.trim_end() != word {
        line.clear();
        assert_ne!(
            stdout.read_line(&mut line).unwrap(),
            0,
            "the child ended before {word:?}"
        );
    }
}

fn say(word: &str) {
    println!("\n{word}");
    std::io::stdout().flush().unwrap();
}

/// Waits to be killed, or for the parent to close standard input.
fn hold() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// What the children do.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let store = Store::open(Path::new(&std::env::var_os(ROOT).unwrap())).unwrap();
    match role.as_str() {
        "compute" => {
            // All start at once: when the parent closes their standard input.
            say("ready");
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
            say("writing");
            hold();
        }
        other => panic!("unknown role {other}"),
    }
}

/// One node, as the pipeline computes it; each computation leaves a line in a file.
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

/// Two hundred nodes of one blob each, asked for and used as the pipeline does, until the parent
/// has seen enough. What was found or made must be there until the end.
fn build(store: &Store) {
    say("ready");
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
fn what_living_processes_use_survives_collections_beside_them() {
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
    // Nobody uses anything now.
    let report = store.collect(&everything).unwrap();
    assert_eq!((report.kept, report.held), (0, 0));
    assert_eq!((blobs(&store).len(), names(&store, "nodes").len()), (0, 0));
    assert_eq!(names(&store, "leases"), [""; 0]);
}

/// A process may record its node and end between any two looks of a collection: whatever of it the
/// collection sees, a record that stays has its outputs.
#[test]
fn no_record_stays_without_its_outputs_when_its_process_ends_beside_a_collection() {
    const WRITERS: u64 = 2;
    const NODES: u64 = 400;
    let (_dir, store) = store();
    // So many that looking through the nodes takes longer than recording one and ending.
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

/// A node of a sparse file that holds only this number.
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
fn a_lease_dies_with_its_process() {
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
    // Its lease, its directory, the lock of its node.
    assert_eq!(report.leftovers, 3);
    assert_eq!(names(&store, "leases"), [""; 0]);
    assert_eq!(blobs(&store), [""; 0]);
}

/// Starts `count` children that compute the node, lets them go at once and waits for them.
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
fn processes_that_want_one_node_at_once_compute_it_once() {
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
fn a_killed_writer_leaves_no_blob_and_a_sweep_removes_the_rest() {
    let (_dir, store) = store();
    let mut child = spawn("write", store.root());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut stdout, "writing");

    // While it lives, what it uses is left alone.
    assert_eq!(store.sweep().unwrap(), Swept::default());
    assert_eq!(names(&store, "tmp").len(), 1, "its directory");
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
        Swept {
            temporaries: 1,
            locks: 1
        }
    );
    assert_eq!(names(&store, "tmp"), [""; 0]);
    // Its lock died with it.
    drop(store.lock_node(&key(&serde_json::json!("held"))).unwrap());
    assert_eq!(names(&store, "locks"), ["gc", "store", "tmp"]);
}

#[test]
fn processes_that_create_one_store_at_once_agree() {
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
