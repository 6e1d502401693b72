//! The store: hashing, chunk maps, lookups.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use microagent_cas::{CHUNK_SIZE, ChunkMap, Digest, Hasher, Input, KeyMaterial, NodeRecord, Store};

const MIB: u64 = 1 << 20;

/// A directory in memory if possible, to exclude the disk from the measurement.
fn directory() -> tempfile::TempDir {
    let memory = PathBuf::from("/dev/shm");
    let place = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(place).expect("a temporary directory can be made")
}

fn hashing(criterion: &mut Criterion) {
    let bytes = vec![0x5a; 16 * MIB as usize];
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("sha256 of 16 MiB", |bencher| {
        bencher.iter(|| {
            let mut hasher = Hasher::new();
            hasher.update(black_box(&bytes));
            hasher.finish()
        });
    });
    let directory = directory();
    let store = Store::open(directory.path()).expect("a store can be made");
    let mut number = 0_u64;
    group.bench_function("a new blob of 16 MiB", |bencher| {
        bencher.iter(|| {
            let mut blob = store.writer().expect("a blob can be begun");
            number += 1;
            blob.write_all(&number.to_le_bytes())
                .expect("it can be written");
            blob.write_all(&bytes).expect("it can be written");
            let (digest, _) = blob.commit(None).expect("it can be kept");
            std::fs::remove_file(store.blob_path(&digest)).expect("it is there");
        });
    });
    group.finish();
}

fn chunk_maps(criterion: &mut Criterion) {
    let directory = directory();
    let mut group = criterion.benchmark_group("chunk map of 256 MiB");
    for (name, every) in [("without holes", 1), ("with data in each 16th chunk", 16)] {
        let path = directory.path().join("file");
        let file = File::create(&path).expect("a file can be made");
        file.set_len(256 * MIB).expect("it can be this long");
        let chunk = vec![0xa5; CHUNK_SIZE as usize];
        for number in (0..256 * MIB / CHUNK_SIZE).step_by(every) {
            file.write_all_at(&chunk, number * CHUNK_SIZE)
                .expect("it can be written");
        }
        let file = File::open(&path).expect("it is there");
        group.bench_function(name, |bencher| {
            bencher.iter(|| ChunkMap::of(&file, &path).expect("it can be read"));
        });
    }
    group.finish();
}

fn look_ups(criterion: &mut Criterion) {
    let directory = directory();
    let store = Store::open(directory.path()).expect("a store can be made");
    let digest = store.put_bytes(b"output").expect("it can be kept");
    let inputs: Vec<Input> = (0..8_u8)
        .map(|number| Input {
            name: "layer".into(),
            digest: Digest::of(&[number]),
        })
        .collect();
    let params = serde_json::json!({"sizeMiB": 512});
    let material = KeyMaterial {
        op: "rootfs",
        op_version: 1,
        params: &params,
        inputs: &inputs,
        platform: None,
    };
    let outputs = [("rootfs".to_owned(), digest.into())].into();
    let record = NodeRecord::new(&store, &material, outputs, 1).expect("it can be made");
    store.record_node(&record).expect("it can be kept");
    let key = record.key();
    criterion.bench_function("store/look up a node", |bencher| {
        bencher.iter(|| {
            store
                .node(&key)
                .expect("it can be read")
                .expect("it is there")
        });
    });
    criterion.bench_function("store/open", |bencher| {
        bencher.iter(|| Store::open(directory.path()).expect("it is there"));
    });
}

criterion_group!(benches, hashing, chunk_maps, look_ups);
criterion_main!(benches);
