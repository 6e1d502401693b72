//! The nodes of an image build, with the times that the pipeline reports.
//!
//! Private parts of the pipeline are measured with images that exercise mostly them: many small
//! files for the tar reader, the index, the merge and directories; one large file for
//! decompression, hashing and content.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use microagent_benches::content::{add_file, add_tree};
use microagent_benches::layout::{Compression, LayoutWriter};
use microagent_cas::Store;
use microagent_pipeline::{BundleOptions, Pipeline, Reference, RootfsOptions, Silent};

const MIB: u64 = 1 << 20;
const FILES: u32 = 20_000;

type Tar<'a> = tar::Builder<&'a mut dyn std::io::Write>;
type Fill = dyn Fn(&mut Tar<'_>);

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

/// Writes an image of these layers.
fn layout(layers: &[(Compression, &Fill)]) -> tempfile::TempDir {
    let directory = directory();
    let mut writer = LayoutWriter::new(directory.path()).expect("a layout can be made");
    let layers: Vec<_> = (layers.iter())
        .map(|(compression, fill)| {
            let layer = writer.layer(*compression, |tar| {
                fill(tar);
                Ok(())
            });
            layer.expect("a layer can be written")
        })
        .collect();
    writer
        .image("latest", &layers)
        .expect("an image can be written");
    writer.finish().expect("a layout can be finished");
    directory
}

/// The total time of the nodes of `op` in `times` builds with an empty store.
fn nodes(layout: &Path, op: &str, times: u64) -> Duration {
    let reference: Reference = format!("oci:{}:latest", layout.display())
        .parse()
        .expect("it is a reference");
    let mut millis = 0.0;
    for _ in 0..times {
        let directory = directory();
        let store = Store::open(directory.path()).expect("a store can be made");
        let pipeline = Pipeline::new(store, Arc::new(Silent));
        let image = pipeline.resolve(&reference).expect("the image is there");
        let options = RootfsOptions::default();
        pipeline.rootfs(&image, &options).expect("it can be built");
        let reports = pipeline.reports();
        let of_op = reports.iter().filter(|report| report.op == op);
        millis += of_op.map(|report| report.millis).sum::<f64>();
    }
    Duration::from_secs_f64(millis / 1000.0)
}

fn unpack(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unpack");
    group.sample_size(10);
    let fill = |tar: &mut Tar<'_>| {
        add_file(tar, "mixed", 64 * MIB, 3).expect("it can be added");
    };
    group.throughput(Throughput::Bytes(64 * MIB));
    for (name, compression) in [
        ("plain, one file of 64 MiB", Compression::None),
        ("gzip, one file of 64 MiB", Compression::Gzip),
        ("zstd, one file of 64 MiB", Compression::Zstd),
    ] {
        let layout = layout(&[(compression, &fill)]);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| nodes(layout.path(), "unpack", times));
        });
    }
    let fill = |tar: &mut Tar<'_>| {
        add_tree(tar, "tree", FILES).expect("it can be added");
    };
    let layout = layout(&[(Compression::None, &fill)]);
    group.throughput(Throughput::Elements(u64::from(FILES)));
    group.bench_function("tar and index of 20 000 files", |bencher| {
        bencher.iter_custom(|times| nodes(layout.path(), "unpack", times));
    });
    group.finish();
}

fn rootfs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rootfs");
    group.sample_size(10);
    let tree = |root: &'static str| {
        move |tar: &mut Tar<'_>| {
            add_tree(tar, root, FILES / 4).expect("it can be added");
        }
    };
    // The upper two layers replace all files of the lower two.
    let (a, b) = (tree("a"), tree("b"));
    let merged = layout(&[
        (Compression::None, &a),
        (Compression::None, &b),
        (Compression::None, &a),
        (Compression::None, &b),
    ]);
    group.throughput(Throughput::Elements(u64::from(FILES)));
    group.bench_function("merge of 4 layers, 20 000 members", |bencher| {
        bencher.iter_custom(|times| nodes(merged.path(), "rootfs", times));
    });
    let noise = |tar: &mut Tar<'_>| {
        add_file(tar, "noise", 128 * MIB, 1).expect("it can be added");
    };
    let content = layout(&[(Compression::None, &noise)]);
    group.throughput(Throughput::Bytes(128 * MIB));
    group.bench_function("ext4 of one file of 128 MiB", |bencher| {
        bencher.iter_custom(|times| nodes(content.path(), "rootfs", times));
    });
    group.finish();
}

fn bundle(criterion: &mut Criterion) {
    let directory = directory();
    let tar = directory.path().join("bundle.tar");
    let file = std::fs::File::create(&tar).expect("a file can be made");
    let mut builder = tar::Builder::new(file);
    add_tree(&mut builder, "tree", FILES / 4).expect("it can be added");
    builder.finish().expect("it can be finished");
    let options = BundleOptions {
        path: tar,
        name: "bench".into(),
        mount: "/bench".into(),
        writable: false,
    };
    let mut group = criterion.benchmark_group("bundle");
    group.sample_size(10);
    group.throughput(Throughput::Elements(u64::from(FILES / 4)));
    group.bench_function("5 000 files", |bencher| {
        bencher.iter_batched(
            self::directory,
            |directory| {
                let store = Store::open(directory.path()).expect("a store can be made");
                let pipeline = Pipeline::new(store, Arc::new(Silent));
                pipeline.bundle(&options).expect("it can be built");
                directory
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, unpack, rootfs, bundle);
criterion_main!(benches);
