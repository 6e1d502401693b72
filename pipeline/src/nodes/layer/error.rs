//! Why a layer could not be fetched or unpacked.

use std::io;

use microagent_cas::Digest;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::tar::decompress::needs_too_much_memory;
use crate::tar::reader::TarError;
use crate::tar::stream::MAX_UNPACKED;

/// Why a layer could not be fetched or unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // each message documents its variant
pub enum LayerError {
    #[error("layer {layer} of {image} is truncated: received {received} of {expected} bytes")]
    CutShort {
        layer: Digest,
        image: String,
        received: u64,
        expected: u64,
        /// Whether another attempt may receive the rest.
        resumable: bool,
        #[source]
        source: Option<io::Error>,
    },
    #[error("layer {layer} of {image} is longer than the {expected} bytes of its manifest")]
    TooLong {
        layer: Digest,
        image: String,
        expected: u64,
    },
    #[error("layer {layer} of {image}: digest mismatch: got {actual}")]
    WrongBytes {
        layer: Digest,
        image: String,
        actual: Digest,
    },
    #[error(
        "layer {layer} of {image} unpacks to {actual}, not to the diff id in the configuration"
    )]
    WrongDiffId {
        layer: Digest,
        image: String,
        actual: Digest,
    },
    #[error("layer {layer} of {image} has an unsupported compression: {compression}")]
    Compression {
        layer: Digest,
        image: String,
        compression: &'static str,
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
    #[error("the tar of layer {layer} of {image} is malformed")]
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
            LayerError::CutShort {
                resumable: true, ..
            } => ErrorKind::Unreachable,
            LayerError::Compression { .. }
            | LayerError::Tar {
                source: TarError::Type { .. },
                ..
            } => ErrorKind::Unsupported,
            LayerError::Decompress { source, .. } if needs_too_much_memory(source) => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Corrupt,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match self {
            LayerError::CutShort {
                resumable: true, ..
            } => {
                "try again: the transfer resumes where it stopped; if it stops there again, push or save \
                 the image again"
                    .into()
            }
            LayerError::Decompress { source, .. } if needs_too_much_memory(source) => {
                "build the image with layers of a smaller window: at most 128 MiB (`zstd --long=27`)"
                    .into()
            }
            LayerError::Tar {
                source: TarError::Type { .. },
                ..
            } => "build the image without it, or with a tar of another format (`tar --format=pax`)"
                .into(),
            LayerError::Compression { .. } => {
                "build the image with gzip, zstd or uncompressed layers".into()
            }
            LayerError::Bomb { .. } => "do not use this image, or build a smaller one".into(),
            _ => "the image is damaged at its source: push or save it again".into(),
        })
    }
}
