//! The `fetch` and `unpack` nodes: a layer as distributed (usually compressed),
//! and as a tar with an index.
//!
//! | node | inputs | outputs |
//! |---|---|---|
//! | `fetch` | `layer` | `layer`: the blob as the manifest names it |
//! | `unpack` | `layer`, `diffId` | `tar`: the blob that `diffId` names; `tarIndex`: its [`crate::tar::index`] |
//!
//! Every byte is hashed as it passes: a blob is stored only under the digest
//! that the manifest (or the image's configuration) declares. An interrupted
//! transfer is resumed where it stopped, up to a number of attempts; the part
//! that a process leaves behind is resumed by the next one.
//!
//! A layer that is not in the store is fetched and unpacked in one pass by
//! three threads:
//! ```text
//! transfer ─▶ hash, store the blob ─feed─▶ decompress ─feed─▶ hash, store the tar, index
//! ```
//! A layer that is already unpacked is not fetched again when only its
//! compressed blob has been removed.

mod error;
mod transfer;
mod unpack;

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use microagent_cas::{BlobWriter, Digest, Output, Store, StoreError};

use self::transfer::Transfer;
use self::unpack::Unpacking;
use crate::engine::Engine;
use crate::engine::node::NodeSpec;
use crate::engine::progress::{Event, Stage, short};
use crate::image::manifest::{LayerDescriptor, ManifestError};
use crate::nodes::resolve::Image;
use crate::source::SourceFailure;
use crate::tar::feed::{FeedWriter, PIECE, feed};
use crate::tar::index::INDEX_FORMAT;
use crate::tar::reader::READER_VERSION;

pub use error::LayerError;

/// The number of layers fetched in parallel, each over its own connection.
const PARALLEL: usize = 3;
/// The size of a read from a blob, in bytes.
const CHUNK: usize = 256 << 10;
/// The version of the `unpack` node: the tar reader's and the index's together. Both only rise.
pub(crate) const UNPACK_VERSION: u32 = INDEX_FORMAT + READER_VERSION;

/// An unpacked layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// The digest of the layer in the manifest.
    pub(crate) layer: Digest,
    /// The digest of its uncompressed tar: its diff id.
    pub(crate) tar: Digest,
    /// The digest of the tar's index.
    pub(crate) index: Digest,
    /// Whether this process has just hashed both. Otherwise what reads them verifies them.
    pub(crate) verified: bool,
}

/// Why a layer could not be fetched and unpacked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(crate) enum LayerFailure {
    Store(#[from] StoreError),
    Source(#[from] SourceFailure),
    Manifest(#[from] ManifestError),
    Layer(#[from] LayerError),
}

/// Unpacks all layers of an image; returns them from the bottom up.
///
/// # Errors
/// Those of fetching and unpacking; the first failure stops the start of further layers.
pub(crate) fn layers(engine: &Engine, image: &Image) -> Result<Vec<Unpacked>, LayerFailure> {
    let total = AtomicU64::new(0);
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, Result<Unpacked, LayerFailure>>> = Mutex::default();
    let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = image.layers.get(number) else {
                return;
            };
            let unpacking = Unpacking {
                engine,
                image,
                layer,
                total: &total,
            };
            let result = unpacked(&unpacking);
            if result.is_err() {
                // The other threads need not start another layer.
                next.store(image.layers.len(), Ordering::Relaxed);
            }
            lock().insert(number, result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..PARALLEL.min(image.layers.len()) {
            // Without it (process limit), this thread does its work.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let done = std::mem::take(&mut *lock());
    done.into_values().collect()
}

/// Fetches the layers whose compressed blobs are not in the store.
///
/// # Errors
/// Those of fetching and unpacking.
pub(crate) fn fetch_layers(engine: &Engine, image: &Image) -> Result<(), LayerFailure> {
    let total = AtomicU64::new(0);
    let store = engine.store();
    for layer in &image.layers {
        store.hold(&[Output::Blob(layer.digest)])?;
        if !is_stored(store, layer)? {
            unpack(&Unpacking {
                engine,
                image,
                layer,
                total: &total,
            })?;
        }
    }
    Ok(())
}

/// The `unpack` node of a layer.
fn unpacked(unpacking: &Unpacking<'_>) -> Result<Unpacked, LayerFailure> {
    let layer = unpacking.layer;
    let node = unpacking
        .engine
        .node(unpack_spec(layer), || -> Result<_, LayerFailure> {
            let index = unpack(unpacking)?;
            Ok(BTreeMap::from([
                ("tar".to_owned(), layer.diff_id.into()),
                ("tarIndex".to_owned(), index.into()),
            ]))
        })?;
    Ok(Unpacked {
        layer: layer.digest,
        tar: node.output("tar")?.digest(),
        index: node.output("tarIndex")?.digest(),
        verified: !node.hit,
    })
}

/// Unpacks a layer, from the store or while it is fetched; returns the index. A damaged blob in the
/// store is fetched again.
fn unpack(unpacking: &Unpacking<'_>) -> Result<Digest, LayerFailure> {
    let found_damage =
        |error: &LayerFailure| matches!(error, LayerFailure::Store(StoreError::Corrupt { .. }));
    unpacking
        .engine
        .healing(|| try_unpack(unpacking), found_damage)
}

fn try_unpack(unpacking: &Unpacking<'_>) -> Result<Digest, LayerFailure> {
    let Unpacking {
        engine,
        image,
        layer,
        ..
    } = *unpacking;
    let (stage, detail) = (Stage::Unpack, short(&layer.digest));
    let begin = || {
        engine.emit(Event::StageStarted {
            stage,
            detail: detail.clone(),
            total_bytes: None,
        });
    };
    let mut index = None;
    engine.node(fetch_spec(layer), || -> Result<_, LayerFailure> {
        refuse_encrypted(image, layer)?;
        engine.store().hold(&[Output::Blob(layer.digest)])?;
        if !is_stored(engine.store(), layer)? {
            begin();
            index = Some(fetch(unpacking)?);
        }
        Ok(BTreeMap::from([("layer".to_owned(), layer.digest.into())]))
    })?;
    let index = match index {
        Some(index) => index,
        None => {
            begin();
            let mut blob = engine.open_verified(&layer.digest)?;
            let unpacked = unpacking.run(BufReader::with_capacity(CHUNK, &mut blob));
            // Also after a failure, which a damaged blob explains better than its source.
            blob.finish()?;
            unpacked?
        }
    };
    engine.emit(Event::StageDone { stage, detail });
    Ok(index)
}

/// Fetches a layer and unpacks it meanwhile; returns the index.
fn fetch(unpacking: &Unpacking<'_>) -> Result<Digest, LayerFailure> {
    let Unpacking {
        engine,
        image,
        layer,
        ..
    } = *unpacking;
    let (stage, detail) = (Stage::Fetch, short(&layer.digest));
    engine.emit(Event::StageStarted {
        stage,
        detail: detail.clone(),
        total_bytes: Some(layer.size),
    });
    let abandoned = AtomicBool::new(false);
    let (writer, reader) = feed();
    let (fetched, unpacked) = thread::scope(|scope| {
        let unpack = || {
            let result = unpacking.run(reader);
            // A layer that cannot be unpacked is still fetched to its end: its digest shows
            // whether it is damaged. If it cannot be stored, the transfer is pointless.
            let no_place = matches!(&result, Err(LayerFailure::Store(_)));
            abandoned.store(no_place, Ordering::Relaxed);
            result
        };
        let unpacking = thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, unpack)
            .map_err(|error| StoreError::io("unpack into", engine.store().root(), error))?;
        let fetched = transfer(engine, image, layer, writer, &abandoned);
        let unpacked = unpacking.join();
        Ok::<_, LayerFailure>((fetched, unpacked))
    })?;
    let unpacked = unpacked.unwrap_or_else(|_| {
        let panicked = std::io::Error::other("the thread that unpacks it has panicked");
        Err(StoreError::io("unpack into", engine.store().root(), panicked).into())
    });
    let blob = match (fetched, &unpacked) {
        (Ok(Some(blob)), _) => blob,
        (Ok(None), _) | (Err(_), Err(LayerFailure::Store(_))) => return unpacked,
        (Err(error), _) => return Err(error),
    };
    let was_resumed = blob.left() > 0;
    match keep(blob, image, layer) {
        // Perhaps the part that another process left is damaged. It is gone now.
        Err(LayerFailure::Layer(LayerError::WrongBytes { .. })) if was_resumed => {
            return fetch(unpacking);
        }
        kept => kept?,
    }
    engine.emit(Event::StageDone { stage, detail });
    unpacked
}

/// Fetches a layer into a blob and copies it to `writer`; `None` when it was abandoned.
fn transfer(
    engine: &Engine,
    image: &Image,
    layer: &LayerDescriptor,
    mut writer: FeedWriter,
    abandoned: &AtomicBool,
) -> Result<Option<BlobWriter>, LayerFailure> {
    let store = engine.store();
    let mut blob = store.resume_writer(&layer.digest)?;
    let mut buffer = vec![0; PIECE];
    let advanced = |bytes: usize| {
        engine.emit(Event::Advanced {
            stage: Stage::Fetch,
            detail: short(&layer.digest),
            bytes: bytes as u64,
        });
    };
    if blob.left() > layer.size {
        blob.restart()?;
    }
    loop {
        let read = blob.replay(&mut buffer)?;
        if read == 0 {
            break;
        }
        writer.send(&buffer[..read]);
        advanced(read);
    }
    let mut transfer = Transfer::new(&*image.source, layer, &image.reference, blob.size());
    loop {
        let read = transfer.fill(&mut buffer)?;
        if read == 0 {
            return Ok(Some(blob));
        }
        if abandoned.load(Ordering::Relaxed) {
            return Ok(None);
        }
        writer.send(&buffer[..read]);
        blob.write_all(&buffer[..read])
            .map_err(|error| StoreError::io("write a blob in", store.root(), error))?;
        advanced(read);
    }
}

/// Whether the compressed blob of a layer is in the store.
fn is_stored(store: &Store, layer: &LayerDescriptor) -> Result<bool, StoreError> {
    Ok(store.blob_size(&layer.digest)? == Some(layer.size)
        && store.is_intact(&Output::Blob(layer.digest))?)
}

/// The `fetch` node of a layer.
pub(crate) fn fetch_spec(layer: &LayerDescriptor) -> NodeSpec {
    NodeSpec {
        op: "fetch",
        op_version: 1,
        params: serde_json::json!({}),
        inputs: vec![("layer".into(), layer.digest)],
        platform: None,
    }
}

/// The `unpack` node of a layer.
pub(crate) fn unpack_spec(layer: &LayerDescriptor) -> NodeSpec {
    NodeSpec {
        op: "unpack",
        op_version: UNPACK_VERSION,
        params: serde_json::json!({}),
        inputs: vec![
            ("layer".into(), layer.digest),
            ("diffId".into(), layer.diff_id),
        ],
        platform: None,
    }
}

fn refuse_encrypted(image: &Image, layer: &LayerDescriptor) -> Result<(), LayerFailure> {
    if layer.media_type.contains("encrypted") {
        return Err(ManifestError::LayerType {
            layer: layer.digest,
            image: image.reference.clone(),
            media_type: layer.media_type.clone(),
        }
        .into());
    }
    Ok(())
}

/// Commits a fetched layer under its digest.
fn keep(blob: BlobWriter, image: &Image, layer: &LayerDescriptor) -> Result<(), LayerFailure> {
    match blob.commit(Some(&layer.digest)) {
        Ok(_) => Ok(()),
        Err(StoreError::Mismatch { actual, .. }) => Err(LayerError::WrongBytes {
            layer: layer.digest,
            image: image.reference.clone(),
            actual,
        }
        .into()),
        Err(error) => Err(error.into()),
    }
}
