//! From a layer as it is shipped to its tar and the tar's index, in one streaming pass
//! ([`crate::tar::stream`]).

use std::io::{self, BufRead, BufWriter};
use std::sync::atomic::AtomicU64;

use microagent_cas::{BlobWriter, Digest, StoreError};

use super::{LayerError, short};
use crate::engine::progress::{Event, Stage};
use crate::error::Error;
use crate::image::manifest::LayerDescriptor;
use crate::pipeline::Pipeline;
use crate::tar::decompress::Compression;
use crate::tar::index::IndexWriter;
use crate::tar::stream::{Meter, UnpackError, unpack};

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
        let store = self.pipeline.store();
        let failed = |error| self.write_failed(error);
        let blob = BufWriter::with_capacity(CHUNK, store.writer()?);
        let mut index = IndexWriter::new(blob).map_err(failed)?;
        let tell = |bytes| {
            self.pipeline.tell(Event::Advanced {
                stage: Stage::Unpack,
                detail: short(&self.layer.digest),
                bytes,
            });
        };
        let meter = Meter {
            total: self.budget,
            advance: &tell,
        };
        let tar = unpack(
            input,
            &meter,
            |compression| self.place_for_tar(compression),
            |entry| index.add(&entry).map_err(failed),
        )
        .map_err(|error| self.unpack_failed(error))?;
        if let Some(tar) = tar {
            self.keep_tar(tar)?;
        }
        let (buffered, _) = index.finish().map_err(failed)?;
        let blob = buffered
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        Ok(blob.commit(None)?.0)
    }

    /// Where the tar goes. An uncompressed layer is the tar already, under the same digest.
    fn place_for_tar(&self, compression: Compression) -> Result<Option<BlobWriter>, Error> {
        let is_tar = compression == Compression::None && self.layer.digest == self.layer.diff_id;
        Ok(match is_tar {
            true => None,
            false => Some(self.pipeline.store().writer()?),
        })
    }

    fn keep_tar(&self, tar: BlobWriter) -> Result<(), Error> {
        match tar.commit(Some(&self.layer.diff_id)) {
            Ok(_) => Ok(()),
            Err(StoreError::Mismatch { actual, .. }) => Err(LayerError::WrongDiffId {
                layer: self.layer.digest,
                image: self.image.to_owned(),
                actual,
            }
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    fn unpack_failed(&self, error: UnpackError<Error>) -> Error {
        let (layer, image) = (self.layer.digest, self.image.to_owned());
        match error {
            UnpackError::Compression(compression) => LayerError::Compression {
                layer,
                image,
                compression,
            },
            UnpackError::Input(source) => LayerError::Decompress {
                layer,
                image,
                source,
            },
            UnpackError::Tar(source) => LayerError::Tar {
                layer,
                image,
                source,
            },
            UnpackError::TooLarge => LayerError::Bomb { image },
            UnpackError::Output(error) => return self.write_failed(error),
            UnpackError::Caller(error) => return error,
        }
        .into()
    }

    fn write_failed(&self, error: io::Error) -> Error {
        StoreError::io("write a blob in", self.pipeline.store().root(), error).into()
    }
}
