//! The `fetch` and `unpack` nodes: a layer as it is shipped, then as a tar
//! with an index.
//!
//! | node | inputs | outputs |
//! |---|---|---|
//! | `fetch` | `layer` | `layer`: the blob as the manifest names it |
//! | `unpack` | `layer`, `diffId` | `tar`: the blob that `diffId` names; `tarIndex`: its [`crate::tar::index`] |
//!
//! Every byte is hashed on its way: a blob is kept only under the digest that
//! the manifest (or the image's configuration) announced. A transfer that
//! breaks off goes on where it stopped, a few times; what has come when a
//! process ends is kept for the next one.
//!
//! A layer that is not here is fetched and unpacked in one pass, by three
//! threads that hand its bytes on:
//! ```text
//! transfer ─▶ hash, keep the blob ─feed─▶ decompress ─feed─▶ hash, keep the tar, index
//! ```
//! A layer that was unpacked before is not needed as it is shipped, and is not
//! fetched again when only that is gone.

mod error;
mod transfer;
mod unpack;

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use microagent_cas::{BlobWriter, Digest, Output, StoreError};

use self::transfer::Transfer;
use self::unpack::Unpacking;
use crate::engine::node::NodeSpec;
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::image::manifest::{LayerDescriptor, ManifestError};
use crate::nodes::resolve::Image;
use crate::pipeline::Pipeline;
use crate::tar::feed::{FeedWriter, PIECE, feed};
use crate::tar::index::INDEX_FORMAT;

pub use error::LayerError;

/// How many layers are worked on at once, each over a connection of its own.
const PARALLEL: usize = 3;
/// How much of a blob is read at once.
const CHUNK: usize = 256 << 10;
/// The version of the `unpack` node: the tar reader's and the index's together.
const UNPACK_VERSION: u32 = INDEX_FORMAT;

/// A layer that is ready to be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// The layer as the manifest names it.
    pub(crate) layer: Digest,
    /// Its uncompressed tar, which is its diff id.
    pub(crate) tar: Digest,
    /// The tar's index.
    pub(crate) index: Digest,
}

impl Pipeline {
    /// All layers of an image, from the bottom up, unpacked.
    pub(crate) fn layers(&self, image: &Image) -> Result<Vec<Unpacked>, Error> {
        let budget = AtomicU64::new(0);
        let next = AtomicUsize::new(0);
        let done: Mutex<BTreeMap<usize, Result<Unpacked, Error>>> = Mutex::default();
        let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = image.layers.get(number) else {
                    return;
                };
                let result = self.layer(image, layer, &budget);
                if result.is_err() {
                    // The others need not begin anything new.
                    next.store(image.layers.len(), Ordering::Relaxed);
                }
                lock().insert(number, result);
            }
        };
        thread::scope(|scope| {
            for _ in 1..PARALLEL.min(image.layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        let done = std::mem::take(&mut *lock());
        done.into_values().collect()
    }

    /// One layer, unpacked.
    fn layer(
        &self,
        image: &Image,
        layer: &LayerDescriptor,
        budget: &AtomicU64,
    ) -> Result<Unpacked, Error> {
        let node = self.node(unpack_spec(layer), || {
            let unpacking = Unpacking {
                pipeline: self,
                layer,
                image: &image.reference,
                budget,
            };
            let index = self.unpack(image, &unpacking)?;
            Ok(BTreeMap::from([
                ("tar".to_owned(), layer.diff_id.into()),
                ("tarIndex".to_owned(), index.into()),
            ]))
        })?;
        Ok(Unpacked {
            layer: layer.digest,
            tar: node.output("tar")?.digest(),
            index: node.output("tarIndex")?.digest(),
        })
    }

    /// Brings the layers here that are not, as they are shipped.
    pub(crate) fn bring_layers(&self, image: &Image) -> Result<(), Error> {
        let budget = AtomicU64::new(0);
        for layer in &image.layers {
            self.store().hold(&[Output::Blob(layer.digest)])?;
            if self.store().blob_size(&layer.digest)? != Some(layer.size) {
                let unpacking = Unpacking {
                    pipeline: self,
                    layer,
                    image: &image.reference,
                    budget: &budget,
                };
                self.unpack(image, &unpacking)?;
            }
        }
        Ok(())
    }

    /// Unpacks a layer, from the store or while it is on its way; gives the index.
    fn unpack(&self, image: &Image, unpacking: &Unpacking<'_>) -> Result<Digest, Error> {
        let layer = unpacking.layer;
        let (stage, detail) = (Stage::Unpack, short(&layer.digest));
        let mut began = false;
        let mut begin = || {
            self.tell(Event::StageStarted {
                stage,
                detail: detail.clone(),
                total_bytes: None,
            });
            began = true;
        };
        let mut index = None;
        self.node(fetch_spec(layer), || {
            refuse_encrypted(image, layer)?;
            self.store().hold(&[Output::Blob(layer.digest)])?;
            if self.store().blob_size(&layer.digest)? != Some(layer.size) {
                begin();
                index = Some(self.fetch(image, unpacking)?);
            }
            Ok(BTreeMap::from([("layer".to_owned(), layer.digest.into())]))
        })?;
        let index = match index {
            Some(index) => index,
            None => {
                begin();
                let blob = self.open(&layer.digest)?;
                unpacking.run(BufReader::with_capacity(CHUNK, blob))?
            }
        };
        self.tell(Event::StageDone { stage, detail });
        Ok(index)
    }

    /// Brings a layer here and unpacks it on the way; gives the index.
    fn fetch(&self, image: &Image, unpacking: &Unpacking<'_>) -> Result<Digest, Error> {
        let layer = unpacking.layer;
        let (stage, detail) = (Stage::Fetch, short(&layer.digest));
        self.tell(Event::StageStarted {
            stage,
            detail: detail.clone(),
            total_bytes: Some(layer.size),
        });
        let abandoned = AtomicBool::new(false);
        let (feed, arriving) = feed();
        let (fetched, unpacked) = thread::scope(|scope| {
            let unpacking = scope.spawn(|| {
                let result = unpacking.run(arriving);
                // Bytes that cannot be unpacked are fetched to their end, for their digest tells
                // whose fault it is. Without a place to put them there is nothing to learn.
                let no_place = matches!(&result, Err(Error::Store(_)));
                abandoned.store(no_place, Ordering::Relaxed);
                result
            });
            let fetched = self.transfer(image, layer, feed, &abandoned);
            let unpacked = unpacking.join();
            (fetched, unpacked)
        });
        let unpacked = unpacked.unwrap_or_else(|_| {
            let panicked = std::io::Error::other("the thread that unpacks it has panicked");
            Err(StoreError::io("unpack into", self.store().root(), panicked).into())
        });
        let blob = match (fetched, &unpacked) {
            (Ok(Some(blob)), _) => blob,
            (Ok(None), _) | (Err(_), Err(Error::Store(_))) => return unpacked,
            (Err(error), _) => return Err(error),
        };
        keep(blob, image, layer)?;
        self.tell(Event::StageDone { stage, detail });
        unpacked
    }

    /// Brings a layer here, and hands it on meanwhile; `None` when it was abandoned.
    fn transfer(
        &self,
        image: &Image,
        layer: &LayerDescriptor,
        mut feed: FeedWriter,
        abandoned: &AtomicBool,
    ) -> Result<Option<BlobWriter>, Error> {
        let mut blob = self.store().resume_writer(&layer.digest)?;
        let mut buffer = vec![0; PIECE];
        let advanced = |bytes: usize| {
            self.tell(Event::Advanced {
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
            feed.send(&buffer[..read]);
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
            feed.send(&buffer[..read]);
            blob.write_all(&buffer[..read])
                .map_err(|error| StoreError::io("write a blob in", self.store().root(), error))?;
            advanced(read);
        }
    }
}

/// What a layer as it is shipped depends on.
pub(crate) fn fetch_spec(layer: &LayerDescriptor) -> NodeSpec {
    NodeSpec {
        op: "fetch",
        op_version: 1,
        params: serde_json::json!({}),
        inputs: vec![("layer".into(), layer.digest)],
        platform: None,
    }
}

/// What an unpacked layer depends on.
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

fn refuse_encrypted(image: &Image, layer: &LayerDescriptor) -> Result<(), Error> {
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

fn keep(blob: BlobWriter, image: &Image, layer: &LayerDescriptor) -> Result<(), Error> {
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

/// A digest as people read it: its first twelve digits.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
