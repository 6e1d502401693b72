//! Unpacks a layer into its tar and the tar's index, in one streaming pass
//! ([`crate::tar::stream`]).

use std::io::{self, BufRead, BufWriter};
use std::sync::atomic::AtomicU64;

use microagent_cas::{BlobWriter, Digest, StoreError};

use super::{LayerError, LayerFailure};
use crate::engine::Engine;
use crate::engine::progress::{Event, Stage, short};
use crate::image::manifest::LayerDescriptor;
use crate::nodes::resolve::Image;
use crate::tar::decompress::Compression;
use crate::tar::index::IndexWriter;
use crate::tar::stream::{Meter, UnpackError, unpack};

/// The size of a write to an index, in bytes.
const CHUNK: usize = 256 << 10;

/// A layer to be unpacked.
pub(super) struct Unpacking<'a> {
    pub(super) engine: &'a Engine,
    pub(super) image: &'a Image,
    pub(super) layer: &'a LayerDescriptor,
    /// The number of unpacked bytes of all layers of the image.
    pub(super) total: &'a AtomicU64,
}

impl Unpacking<'_> {
    /// Unpacks the layer into the store. `input` is the layer as distributed; returns the index.
    pub(super) fn run(&self, input: impl BufRead + Send) -> Result<Digest, LayerFailure> {
        let store = self.engine.store();
        let failed = |error| self.write_failed(error);
        let blob = BufWriter::with_capacity(CHUNK, store.writer()?);
        let mut index = IndexWriter::new(blob).map_err(failed)?;
        let advance = |bytes| {
            self.engine.emit(Event::Advanced {
                stage: Stage::Unpack,
                detail: short(&self.layer.digest),
                bytes,
            });
        };
        let meter = Meter {
            total: self.total,
            advance: &advance,
        };
        let tar = unpack(
            input,
            &meter,
            |compression| self.open_tar(compression),
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

    /// The output for the tar; none for an uncompressed layer, whose blob is the tar.
    fn open_tar(&self, compression: Compression) -> Result<Option<BlobWriter>, LayerFailure> {
        let is_tar = compression == Compression::None && self.layer.digest == self.layer.diff_id;
        Ok(match is_tar {
            true => None,
            false => Some(self.engine.store().writer()?),
        })
    }

    fn keep_tar(&self, tar: BlobWriter) -> Result<(), LayerFailure> {
        match tar.commit(Some(&self.layer.diff_id)) {
            Ok(_) => Ok(()),
            Err(StoreError::Mismatch { actual, .. }) => Err(LayerError::WrongDiffId {
                layer: self.layer.digest,
                image: self.image.reference.clone(),
                actual,
            }
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    fn unpack_failed(&self, error: UnpackError<LayerFailure>) -> LayerFailure {
        let (layer, image) = (self.layer.digest, self.image.reference.clone());
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

    fn write_failed(&self, error: io::Error) -> LayerFailure {
        StoreError::io("write a blob in", self.engine.store().root(), error).into()
    }
}
