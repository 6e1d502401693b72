//! The `fetch` and `unpack` nodes: a layer as it is shipped, then as a tar
//! with an index.
//!
//! | node | inputs | outputs |
//! |---|---|---|
//! | `fetch` | `layer` | `layer`: the blob as the manifest names it |
//! | `unpack` | `layer`, `diffId` | `tar`: the blob that `diffId` names; `tarIndex`: its [`crate::index`] |
//!
//! Every byte is hashed on its way: a blob is kept only under the digest that
//! the manifest (or the image's configuration) announced. A transfer that
//! breaks off goes on where it stopped, a few times.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use microagent_cas::{BlobWriter, Digest, StoreError};

use crate::decompress::{self, Compression};
use crate::error::{Diagnosis, Error, ErrorKind};
use crate::index::{INDEX_FORMAT, IndexWriter};
use crate::manifest::LayerDescriptor;
use crate::node::NodeSpec;
use crate::pipeline::Pipeline;
use crate::progress::{Event, Stage};
use crate::resolve::Image;
use crate::source::Source;
use crate::tar_reader::{TarError, TarReader};

/// How many layers are worked on at once.
const PARALLEL: usize = 3;
/// How often in a row a transfer may break off with less than [`PROGRESS`].
const ATTEMPTS: u32 = 4;
/// A connection that broke off after so many bytes was worth it.
const PROGRESS: u64 = 1 << 20;
/// The most bytes that the layers of one image may unpack to: what a small
/// compressed layer may cost before it is called a bomb.
const MAX_UNPACKED: u64 = 64 << 30;
/// How much is copied at once.
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

/// Why a layer could not be brought here or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each says it
pub enum LayerError {
    #[error("layer {layer} of {image} was cut short: {got} of {expected} bytes came")]
    CutShort {
        layer: Digest,
        image: String,
        got: u64,
        expected: u64,
        #[source]
        source: Option<io::Error>,
    },
    #[error("layer {layer} of {image} is longer than the {expected} bytes of its manifest")]
    TooLong {
        layer: Digest,
        image: String,
        expected: u64,
    },
    #[error("layer {layer} of {image} came with wrong content: its digest is {actual}")]
    WrongBytes {
        layer: Digest,
        image: String,
        actual: Digest,
    },
    #[error("layer {layer} of {image} unpacks to {actual}, not to what its configuration says")]
    WrongDiffId {
        layer: Digest,
        image: String,
        actual: Digest,
    },
    #[error("layer {layer} of {image} is compressed with {compression}")]
    Compression {
        layer: Digest,
        image: String,
        compression: &'static str,
    },
    #[error("layer {layer} of {image} is of type {media_type}")]
    MediaType {
        layer: Digest,
        image: String,
        media_type: String,
    },
    #[error("the layers of {image} unpack to more than {} GiB", MAX_UNPACKED >> 30)]
    Bomb { image: String },
    #[error("layer {layer} of {image} cannot be decompressed")]
    Decompress {
        layer: Digest,
        image: String,
        #[source]
        source: io::Error,
    },
    #[error("the tar of layer {layer} of {image} is broken")]
    Tar {
        layer: Digest,
        image: String,
        #[source]
        source: TarError,
    },
}

impl Diagnosis for LayerError {
    fn kind(&self) -> ErrorKind {
        match self {
            LayerError::CutShort { .. } => ErrorKind::Unreachable,
            LayerError::Compression { .. } | LayerError::MediaType { .. } => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            LayerError::CutShort { .. } => "try again; what has come so far is not kept".into(),
            LayerError::Compression { .. } => {
                "build the image with gzip, zstd or uncompressed layers".into()
            }
            LayerError::MediaType { .. } => {
                "use an image for Linux whose layers are in the registry and not encrypted".into()
            }
            LayerError::Bomb { .. } => "do not use this image, or build a smaller one".into(),
            _ => "the image is damaged where it comes from: push or save it anew".into(),
        })
    }
}

impl Pipeline {
    /// All layers of an image, from the bottom up, unpacked.
    pub(crate) fn layers(&self, image: &Image) -> Result<Vec<Unpacked>, Error> {
        let unpacked_bytes = AtomicU64::new(0);
        let next = AtomicUsize::new(0);
        let done: Mutex<BTreeMap<usize, Result<Unpacked, Error>>> = Mutex::default();
        let lock = || {
            done.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = image.layers.get(number) else {
                    return;
                };
                let result = self
                    .fetch(image, layer)
                    .and_then(|()| self.unpack(image, layer, &unpacked_bytes));
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

    fn fetch(&self, image: &Image, layer: &LayerDescriptor) -> Result<(), Error> {
        let spec = NodeSpec {
            op: "fetch",
            op_version: 1,
            params: serde_json::json!({}),
            inputs: vec![("layer".into(), layer.digest)],
            platform: None,
        };
        self.node(spec, || {
            if layer.media_type.contains("encrypted") {
                return Err(LayerError::MediaType {
                    layer: layer.digest,
                    image: image.reference.clone(),
                    media_type: layer.media_type.clone(),
                }
                .into());
            }
            if self.store().blob_size(&layer.digest)? != Some(layer.size) {
                let detail = short(&layer.digest);
                let stage = Stage::Fetch;
                self.tell(Event::StageStarted {
                    stage,
                    detail: detail.clone(),
                    total_bytes: Some(layer.size),
                });
                self.transfer(image, layer, &detail)?;
                self.tell(Event::StageDone { stage, detail });
            }
            Ok(BTreeMap::from([("layer".to_owned(), layer.digest.into())]))
        })?;
        Ok(())
    }

    /// Brings a layer from where the image is.
    fn transfer(&self, image: &Image, layer: &LayerDescriptor, detail: &str) -> Result<(), Error> {
        let source: &dyn Source = &*image.source;
        let mut blob = self.store().writer()?;
        let mut failures = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let begin = blob.size();
            let (from, mut stream) = source.layer(layer, begin)?;
            if from != begin {
                // The source cannot go on in the middle.
                blob = self.store().writer()?;
            }
            let broke = loop {
                let read = match stream.read(&mut buffer) {
                    Ok(0) if blob.size() < layer.size => break None,
                    Ok(0) => break Some(Ok(())),
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => break Some(Err(error)),
                };
                if blob.size() + read as u64 > layer.size {
                    return Err(LayerError::TooLong {
                        layer: layer.digest,
                        image: image.reference.clone(),
                        expected: layer.size,
                    }
                    .into());
                }
                blob.write_all(&buffer[..read])
                    .map_err(|e| self.write_failed(e))?;
                self.tell(Event::Advanced {
                    stage: Stage::Fetch,
                    detail: detail.to_owned(),
                    bytes: read as u64,
                });
            };
            let source_error = match broke {
                Some(Ok(())) => return self.keep_layer(blob, image, layer),
                Some(Err(error)) => Some(error),
                None => None,
            };
            failures = match blob.size().saturating_sub(begin) >= PROGRESS {
                true => 1,
                false => failures + 1,
            };
            if failures >= ATTEMPTS || !source.may_recover() {
                return Err(LayerError::CutShort {
                    layer: layer.digest,
                    image: image.reference.clone(),
                    got: blob.size(),
                    expected: layer.size,
                    source: source_error,
                }
                .into());
            }
            source.pause(failures);
        }
    }

    fn keep_layer(
        &self,
        blob: BlobWriter,
        image: &Image,
        layer: &LayerDescriptor,
    ) -> Result<(), Error> {
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

    fn unpack(
        &self,
        image: &Image,
        layer: &LayerDescriptor,
        unpacked_bytes: &AtomicU64,
    ) -> Result<Unpacked, Error> {
        let spec = NodeSpec {
            op: "unpack",
            op_version: UNPACK_VERSION,
            params: serde_json::json!({}),
            inputs: vec![
                ("layer".into(), layer.digest),
                ("diffId".into(), layer.diff_id),
            ],
            platform: None,
        };
        let node = self.node(spec, || {
            let detail = short(&layer.digest);
            let stage = Stage::Unpack;
            self.tell(Event::StageStarted {
                stage,
                detail: detail.clone(),
                total_bytes: None,
            });
            let index = self.unpack_blob(image, layer, unpacked_bytes, &detail)?;
            self.tell(Event::StageDone { stage, detail });
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

    /// Decompresses a layer into the store and indexes it on the way.
    fn unpack_blob(
        &self,
        image: &Image,
        layer: &LayerDescriptor,
        unpacked_bytes: &AtomicU64,
        detail: &str,
    ) -> Result<Digest, Error> {
        let name = || image.reference.clone();
        let failed = |source| LayerError::Decompress {
            layer: layer.digest,
            image: name(),
            source,
        };
        let (first, input) = decompress::peek(self.open(&layer.digest)?).map_err(failed)?;
        let compression =
            decompress::detect(&first).map_err(|foreign| LayerError::Compression {
                layer: layer.digest,
                image: name(),
                compression: foreign.0,
            })?;
        let blob = match compression {
            // The layer is the tar already, under the same digest.
            Compression::None if layer.digest == layer.diff_id => None,
            _ => Some(self.store().writer()?),
        };
        let tee = Tee {
            input: decompress::reader(input, compression).map_err(failed)?,
            blob,
            budget: unpacked_bytes,
            tell: &|bytes| {
                self.tell(Event::Advanced {
                    stage: Stage::Unpack,
                    detail: detail.to_owned(),
                    bytes,
                });
            },
        };
        // The tar reader asks for small pieces.
        let tee = BufReader::with_capacity(CHUNK, tee);
        let (tee, index) = self.index(tee).map_err(|error| match error {
            Indexing::Tar(TarError::Read { source, .. }) => self.read_failed(source, image, layer),
            Indexing::Tar(source) => LayerError::Tar {
                layer: layer.digest,
                image: name(),
                source,
            }
            .into(),
            Indexing::Store(error) => error,
        })?;
        if let Some(blob) = tee.into_inner().blob {
            match blob.commit(Some(&layer.diff_id)) {
                Ok(_) => {}
                Err(StoreError::Mismatch { actual, .. }) => {
                    return Err(LayerError::WrongDiffId {
                        layer: layer.digest,
                        image: name(),
                        actual,
                    }
                    .into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(index.commit(None)?.0)
    }

    /// Reads a tar to its end and writes its index.
    fn index<R: Read>(&self, tar: R) -> Result<(R, BlobWriter), Indexing> {
        let store = |error| Indexing::Store(self.write_failed(error));
        let blob = self
            .store()
            .writer()
            .map_err(|e| Indexing::Store(e.into()))?;
        let mut index = IndexWriter::new(BufWriter::with_capacity(CHUNK, blob)).map_err(store)?;
        let mut reader = TarReader::new(tar);
        while let Some(entry) = reader.next_entry().map_err(Indexing::Tar)? {
            index.add(&entry).map_err(store)?;
        }
        let tar = reader.finish().map_err(Indexing::Tar)?;
        let (buffered, _) = index.finish().map_err(store)?;
        let blob = buffered
            .into_inner()
            .map_err(|error| store(error.into_error()))?;
        Ok((tar, blob))
    }

    /// An error while reading through a [`Tee`]: the store's, the budget's, or
    /// the compressed stream's.
    fn read_failed(&self, error: io::Error, image: &Image, layer: &LayerDescriptor) -> Error {
        let image = image.reference.clone();
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<OverBudget>())
        {
            return LayerError::Bomb { image }.into();
        }
        match StoreError::from_stream(error) {
            Ok(error) => error.into(),
            Err(source) => LayerError::Decompress {
                layer: layer.digest,
                image,
                source,
            }
            .into(),
        }
    }

    fn write_failed(&self, error: io::Error) -> Error {
        StoreError::io("write a blob in", self.store().root(), error).into()
    }
}

enum Indexing {
    Tar(TarError),
    Store(Error),
}

/// Hands on what it reads, keeps it as a blob, and counts it.
struct Tee<'a> {
    input: Box<dyn Read + 'a>,
    blob: Option<BlobWriter>,
    budget: &'a AtomicU64,
    tell: &'a dyn Fn(u64),
}

#[derive(Debug, thiserror::Error)]
#[error("more was unpacked than an image may hold")]
struct OverBudget;

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let bytes = read as u64;
        if self.budget.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_UNPACKED {
            return Err(io::Error::other(OverBudget));
        }
        if let Some(blob) = &mut self.blob {
            blob.write_all(&buffer[..read])?;
        }
        (self.tell)(bytes);
        Ok(read)
    }
}

/// A digest as people read it: its first twelve digits.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_unpacks_to_too_much_is_stopped_at_the_limit() {
        let budget = AtomicU64::new(MAX_UNPACKED - 10);
        let tee = |input: &'static [u8]| Tee {
            input: Box::new(input),
            blob: None,
            budget: &budget,
            tell: &|_| {},
        };
        let mut buffer = [0; 10];
        assert_eq!(tee(b"0123456789").read(&mut buffer).unwrap(), 10);
        let error = tee(b"x").read(&mut buffer).unwrap_err();
        assert!(error.get_ref().unwrap().is::<OverBudget>());
    }
}
