//! The `rootfs` node: an image's layers as one ext4 file system.
//!
//! Key: the layers' diff ids from the bottom up, the requested size, the
//! versions of unpacking and merging, and the writer with its version. The compressed layers are
//! not part of it: the same tars with another compression give the same file system.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::thread;

use microagent_cas::{Digest, Output, StoreError};

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::disk::error::{DiskError, Mke2fsError, Mke2fsFailure, WriteError};
use crate::disk::ext4;
use crate::disk::mke2fs::Mke2fs;
use crate::disk::{HEADROOM_MIB, MIB, Size};
use crate::engine::Engine;
use crate::engine::node::NodeSpec;
use crate::engine::progress::Stage;
use crate::nodes::layer::{self, LayerFailure, Unpacked};
use crate::nodes::resolve::{self, Image};
use crate::tar::index::IndexReader;
use crate::tree::Tree;
use crate::tree::merge::{MERGE_VERSION, MergeError, Merger};

/// The operation, and its output.
pub(crate) const OP: &str = "rootfs";

/// Must rise whenever the bytes of an image could change for the same key.
const OP_VERSION: u32 = 3;

/// How to build a root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsOptions {
    /// The size in MiB; if `None`, the size of the content plus [`HEADROOM_MIB`].
    pub size_mib: Option<u64>,
    /// The `mke2fs` to use instead of the built-in writer; `debugfs` must be in
    /// the same directory.
    pub mke2fs: Option<PathBuf>,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The digest of its chunk map ([`microagent_cas::ChunkMap`]).
    pub digest: Digest,
    /// The file in the store. It is read-only and must not be changed.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Whether this process has hashed its content, because it built it.
    pub verified: bool,
}

/// Why the unpacked layers of an image cannot be read from the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum RootfsError {
    #[error("the index of layer {layer} in the store is malformed")]
    Index {
        layer: Digest,
        #[source]
        source: io::Error,
    },
    #[error("the tar of layer {layer} in the store does not match its index")]
    Tar { layer: Digest },
}

impl Diagnosis for RootfsError {
    /// Both documents have the digests that they were stored under, so this is not damage.
    fn kind(&self) -> ErrorKind {
        ErrorKind::Internal
    }

    fn remediation(&self) -> Option<String> {
        None
    }
}

/// Why a root file system could not be built.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum RootfsFailure {
    Store(#[from] StoreError),
    Layer(#[from] LayerFailure),
    Merge(#[from] MergeError),
    Rootfs(#[from] RootfsError),
    Disk(#[from] DiskError),
    Mke2fs(#[from] Mke2fsError),
}

/// Builds the root file system of an image, or finds it in the store. The key consists of the
/// layers' diff ids, which are in the image's configuration, so a file system in the store needs no
/// layer. Otherwise missing layers are fetched and unpacked.
///
/// # Errors
/// Those of fetching, unpacking and merging, and [`DiskError`].
pub(crate) fn rootfs(
    engine: &Engine,
    image: &Image,
    options: &RootfsOptions,
) -> Result<Rootfs, RootfsFailure> {
    let store = engine.store();
    let tool = match &options.mke2fs {
        Some(path) => Some(Mke2fs::find(store, path).map_err(|error| tool_failure(error, image))?),
        None => None,
    };
    let spec = spec(image, options, tool.as_ref());
    // Before the node, so that the time is not recorded as the node's own.
    let layers = match store.node(&spec.key())? {
        Some(_) => None,
        None => Some(layer::layers(engine, image)?),
    };
    let node = engine.node(spec, || {
        let size = match options.size_mib {
            Some(mib) => Size::Exact(mib.saturating_mul(MIB)),
            None => Size::Headroom(HEADROOM_MIB * MIB),
        };
        let mut layers = layers;
        let work = || {
            let layers = match layers.take() {
                Some(layers) => layers,
                None => layer::layers(engine, image)?,
            };
            let seed = seed(&layers, options.size_mib);
            engine.stage(Stage::Rootfs, &image.reference, None, |advance| {
                build(engine, image, &layers, &seed, size, tool.as_ref(), advance)
            })
        };
        let found_damage = |error: &RootfsFailure| {
            matches!(error, RootfsFailure::Store(StoreError::Corrupt { .. }))
        };
        let output = engine.healing(work, found_damage)?;
        Ok::<_, RootfsFailure>([(OP.to_owned(), output)].into())
    })?;
    if store.set_subject(&image.reference, &node.record)? || !node.hit {
        resolve::tag_image(store, image)?;
    }
    let output = node.output(OP)?;
    Ok(Rootfs {
        digest: output.digest(),
        path: store.output_path(&output),
        size: node.record.size,
        verified: !node.hit,
    })
}

/// Verifies a root file system that [`rootfs`] found in the store, and builds it again if it is
/// damaged.
///
/// # Errors
/// Those of [`rootfs`].
pub(crate) fn verified(
    engine: &Engine,
    image: &Image,
    options: &RootfsOptions,
    found: Rootfs,
) -> Result<Rootfs, RootfsFailure> {
    let output = Output::Sparse(found.digest);
    if found.verified || engine.store().verify_object(&output)? {
        return Ok(found);
    }
    engine.report_damage();
    rootfs(engine, image, options)
}

fn build(
    engine: &Engine,
    image: &Image,
    layers: &[Unpacked],
    seed: &Digest,
    size: Size,
    tool: Option<&Mke2fs>,
    advance: &dyn Fn(u64),
) -> Result<Output, RootfsFailure> {
    let tree = merge(engine, layers)?;
    let mut tars = Vec::new();
    for layer in layers {
        tars.push(engine.open(&layer.tar)?.file);
    }
    // The writer reads the tars in the order of the file system, so they are hashed beside it.
    let unverified: Vec<Digest> = (layers.iter())
        .filter(|layer| !layer.verified)
        .map(|layer| layer.tar)
        .collect();
    thread::scope(|scope| {
        let verify = || engine.store().verify_blobs(&unverified);
        let verifying = match unverified.is_empty() {
            true => None,
            false => thread::Builder::new().spawn_scoped(scope, verify).ok(),
        };
        let written = write(engine, image, &tree, &tars, seed, size, tool, advance);
        match verifying {
            // A damaged tar explains a failure of the writer better.
            Some(verifying) => verifying.join().unwrap_or_else(|_| {
                let panicked = io::Error::other("the thread that verifies it has panicked");
                Err(StoreError::io("verify", engine.store().root(), panicked))
            })?,
            None => verify()?,
        }
        written
    })
}

/// Writes the image.
#[allow(clippy::too_many_arguments)]
fn write(
    engine: &Engine,
    image: &Image,
    tree: &Tree,
    tars: &[File],
    seed: &Digest,
    size: Size,
    tool: Option<&Mke2fs>,
    advance: &dyn Fn(u64),
) -> Result<Output, RootfsFailure> {
    let store = engine.store();
    let planned = match tool {
        Some(tool) => {
            return tool
                .build(store, tree, tars, seed, size)
                .map_err(|error| tool_failure(error, image));
        }
        None => ext4::plan(tree, seed, size)?,
    };
    let scratch = store.scratch()?;
    planned
        .write(tars, scratch.file(), &mut |bytes| advance(bytes))
        .map_err(|error| match error {
            WriteError::Image(error) => {
                StoreError::io("write an image in", store.root(), error).into()
            }
            WriteError::Layer(number) => tar_error(number, image).into(),
            WriteError::Disk(error) => RootfsFailure::from(error),
        })?;
    Ok(scratch.commit_sparse()?.0)
}

/// Merges the layers into one tree.
fn merge(engine: &Engine, layers: &[Unpacked]) -> Result<Tree, RootfsFailure> {
    let mut merger = Merger::new();
    for (number, layer) in layers.iter().enumerate() {
        merger.begin_layer(number, &layer.layer.to_string());
        let mut index = engine.open_verified(&layer.index)?;
        let added = add_layer(&mut merger, layer, &mut index);
        // Also after a failure, which a damaged index explains better.
        index.finish()?;
        added?;
    }
    Ok(merger.finish())
}

fn add_layer(merger: &mut Merger, layer: &Unpacked, index: impl Read) -> Result<(), RootfsFailure> {
    let malformed = |source| RootfsError::Index {
        layer: layer.layer,
        source,
    };
    let mut index = IndexReader::new(BufReader::new(index)).map_err(malformed)?;
    while let Some(entry) = index.next_entry().map_err(malformed)? {
        merger.add(entry)?;
    }
    Ok(())
}

/// The `rootfs` node of an image.
pub(crate) fn spec(image: &Image, options: &RootfsOptions, tool: Option<&Mke2fs>) -> NodeSpec {
    let layer = |diff_id| ("layer".to_owned(), diff_id);
    let mut inputs: Vec<_> = (image.layers.iter())
        .map(|descriptor| layer(descriptor.diff_id))
        .collect();
    inputs.extend(tool.into_iter().flat_map(Mke2fs::inputs));
    NodeSpec {
        op: OP,
        op_version: OP_VERSION,
        params: serde_json::json!({
            "writer": if tool.is_some() { "mke2fs, lost+found 1" } else { ext4::WRITER },
            "unpack": layer::UNPACK_VERSION,
            "merge": MERGE_VERSION,
            "sizeMiB": options.size_mib,
            "headroomMiB": HEADROOM_MIB,
        }),
        inputs,
        platform: None,
    }
}

/// The seed of the file system's UUID. It depends on content and size alone, so
/// the UUID is the same wherever the file system is built.
fn seed(layers: &[Unpacked], size_mib: Option<u64>) -> Digest {
    let mut text = format!("microagent rootfs {OP_VERSION} {size_mib:?}\n");
    for layer in layers {
        text.push_str(&format!("{}\n", layer.tar));
    }
    Digest::of(text.as_bytes())
}

fn tool_failure(error: Mke2fsFailure, image: &Image) -> RootfsFailure {
    match error {
        Mke2fsFailure::Store(error) => error.into(),
        Mke2fsFailure::Disk(error) => error.into(),
        Mke2fsFailure::Mke2fs(error) => error.into(),
        Mke2fsFailure::Layer(number) => tar_error(number, image).into(),
    }
}

fn tar_error(number: usize, image: &Image) -> RootfsError {
    let layer = image.layers.get(number);
    RootfsError::Tar {
        layer: layer.map_or(Digest::of(b""), |layer| layer.digest),
    }
}
