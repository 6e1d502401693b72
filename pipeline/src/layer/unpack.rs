//! From a layer as it is shipped to its tar and the tar's index, in one streaming pass: one thread
//! decompresses, another hashes, keeps and reads the tar. Both work while the layer is still on
//! its way.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use microagent_cas::{BlobWriter, Digest, StoreError};

use super::feed::{PIECE, feed};
use super::{LayerError, MAX_UNPACKED, short};
use crate::decompress::{self, Compression};
use crate::error::Error;
use crate::index::IndexWriter;
use crate::manifest::LayerDescriptor;
use crate::pipeline::Pipeline;
use crate::progress::{Event, Stage};
use crate::tar_reader::{TarError, TarReader};

/// How much of an index is written at once.
const CHUNK: usize = 256 << 10;

/// A layer to be unpacked.
pub(super) struct Unpacking<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) layer: &'a LayerDescriptor,
    /// The image's reference, for messages.
    pub(super) image: &'a str,
    /// How much has been unpacked of all layers of the image.
    pub(super) budget: &'a AtomicU64,
}

impl Unpacking<'_> {
    /// Unpacks a layer into the store. `input` is the layer as it is shipped; gives the index.
    pub(super) fn run(&self, input: impl BufRead + Send) -> Result<Digest, Error> {
        let (first, input) = decompress::peek(input).map_err(|source| self.failed(source))?;
        let compression =
            decompress::detect(&first).map_err(|foreign| LayerError::Compression {
                layer: self.layer.digest,
                image: self.image.to_owned(),
                compression: foreign.0,
            })?;
        if compression == Compression::None {
            return self.keep(input, compression);
        }
        let (mut feed, fed) = feed();
        thread::scope(|scope| {
            let decompressing = scope.spawn(move || -> io::Result<()> {
                let mut reader = decompress::reader(input, compression)?;
                let mut piece = vec![0; PIECE];
                while feed.is_read() {
                    match reader.read(&mut piece) {
                        Ok(0) => break,
                        Ok(read) => feed.give(&piece[..read]),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            });
            let kept = self.keep(fed, compression);
            let decompressed = decompressing.join().unwrap_or_else(|_| {
                Err(io::Error::other(
                    "the thread that decompresses it has panicked",
                ))
            });
            match decompressed {
                // A tar that ends too early is only what follows from this.
                Err(source) => Err(self.failed(source)),
                Ok(()) => kept,
            }
        })
    }

    fn failed(&self, source: io::Error) -> Error {
        LayerError::Decompress {
            layer: self.layer.digest,
            image: self.image.to_owned(),
            source,
        }
        .into()
    }

    /// Keeps a tar and its index.
    fn keep(&self, tar: impl Read, compression: Compression) -> Result<Digest, Error> {
        let store = self.pipeline.store();
        // An uncompressed layer is the tar already, under the same digest.
        let is_tar = compression == Compression::None && self.layer.digest == self.layer.diff_id;
        let tee = Tee {
            input: tar,
            blob: match is_tar {
                true => None,
                false => Some(store.writer()?),
            },
            budget: self.budget,
            tell: &|bytes| {
                self.pipeline.tell(Event::Advanced {
                    stage: Stage::Unpack,
                    detail: short(&self.layer.digest),
                    bytes,
                });
            },
        };
        // The tar reader asks for small pieces.
        let tee = BufReader::with_capacity(PIECE, tee);
        let (tee, index) = self.index(tee)?;
        if let Some(blob) = tee.into_inner().blob {
            match blob.commit(Some(&self.layer.diff_id)) {
                Ok(_) => {}
                Err(StoreError::Mismatch { actual, .. }) => {
                    return Err(LayerError::WrongDiffId {
                        layer: self.layer.digest,
                        image: self.image.to_owned(),
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
    fn index<R: Read>(&self, tar: R) -> Result<(R, BlobWriter), Error> {
        let store = |error| self.write_failed(error);
        let blob = self.pipeline.store().writer()?;
        let mut index = IndexWriter::new(BufWriter::with_capacity(CHUNK, blob)).map_err(store)?;
        let mut reader = TarReader::new(tar);
        let broken = |error| self.tar_failed(error);
        while let Some(entry) = reader.next_entry().map_err(broken)? {
            index.add(&entry).map_err(store)?;
        }
        let tar = reader.finish().map_err(broken)?;
        let (buffered, _) = index.finish().map_err(store)?;
        let blob = buffered
            .into_inner()
            .map_err(|error| store(error.into_error()))?;
        Ok((tar, blob))
    }

    /// An error while reading a tar through a [`Tee`]: the tar's, the store's, the budget's, or
    /// the compressed stream's.
    fn tar_failed(&self, error: TarError) -> Error {
        let TarError::Read { source, .. } = error else {
            return LayerError::Tar {
                layer: self.layer.digest,
                image: self.image.to_owned(),
                source: error,
            }
            .into();
        };
        if (source.get_ref()).is_some_and(|inner| inner.is::<OverBudget>()) {
            let image = self.image.to_owned();
            return LayerError::Bomb { image }.into();
        }
        match StoreError::from_stream(source) {
            Ok(error) => error.into(),
            Err(source) => self.failed(source),
        }
    }

    fn write_failed(&self, error: io::Error) -> Error {
        StoreError::io("write a blob in", self.pipeline.store().root(), error).into()
    }
}

/// Hands on what it reads, keeps it as a blob, and counts it.
struct Tee<'a, R> {
    input: R,
    blob: Option<BlobWriter>,
    budget: &'a AtomicU64,
    tell: &'a dyn Fn(u64),
}

#[derive(Debug, thiserror::Error)]
#[error("more was unpacked than an image may hold")]
struct OverBudget;

impl<R: Read> Read for Tee<'_, R> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_unpacks_to_too_much_is_stopped_at_the_limit() {
        let budget = AtomicU64::new(MAX_UNPACKED - 10);
        let tee = |input: &'static [u8]| Tee {
            input,
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
