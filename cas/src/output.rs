//! An output of a node: a blob or a sparse file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::digest::{Digest, InvalidDigest};

const SPARSE: &str = "sparse:";

/// An output of a node. In JSON it is a string: `sha256:…` for a blob, `sparse:sha256:…` for a
/// sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// The blob of this digest.
    Blob(Digest),
    /// The sparse file whose chunk map (object/chunk_map.rs) has this digest.
    Sparse(Digest),
}

impl Output {
    /// The digest that names the output: of a blob's bytes, or of a sparse file's chunk map.
    pub fn digest(&self) -> Digest {
        match self {
            Output::Blob(digest) | Output::Sparse(digest) => *digest,
        }
    }

    /// The output and, for a sparse file, the blob that is its chunk map.
    pub(crate) fn with_map(&self) -> impl Iterator<Item = Output> + use<> {
        let map = match self {
            Output::Sparse(map) => Some(Output::Blob(*map)),
            Output::Blob(_) => None,
        };
        [Some(*self), map].into_iter().flatten()
    }
}

impl From<Digest> for Output {
    fn from(digest: Digest) -> Output {
        Output::Blob(digest)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Blob(digest) => digest.fmt(f),
            Output::Sparse(digest) => write!(f, "{SPARSE}{digest}"),
        }
    }
}

impl FromStr for Output {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Output, InvalidDigest> {
        match text.strip_prefix(SPARSE) {
            Some(digest) => digest.parse().map(Output::Sparse),
            None => text.parse().map(Output::Blob),
        }
    }
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Output, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_distinguishes_blob_and_sparse() {
        let digest = Digest::of(b"abc");
        for (output, text) in [
            (Output::Blob(digest), format!("\"{digest}\"")),
            (Output::Sparse(digest), format!("\"sparse:{digest}\"")),
        ] {
            assert_eq!(serde_json::to_string(&output).unwrap(), text);
            assert_eq!(serde_json::from_str::<Output>(&text).unwrap(), output);
        }
        assert!("sparse:sparse:sha256:00".parse::<Output>().is_err());
    }
}
