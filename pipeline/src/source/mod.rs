//! Where images come from. A source answers for one reference; what it hands
//! out by digest is checked by whoever asked.

mod archive;
mod docker_archive;
mod error;
mod layout;
mod registry;

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use microagent_cas::{Digest, Store};
use oci_spec::image::ImageIndex;

use crate::image::manifest::LayerDescriptor;
use crate::image::reference::Reference;

pub(crate) use error::SourceFailure;
pub use error::{ArchiveError, ArchiveProblem};
#[cfg(feature = "fuzzing")]
pub(crate) use registry::fuzzing;
pub use registry::{
    Registries, RegistriesError, RegistriesProblem, RegistryError, RegistryProblem,
};

/// An index or manifest as it came.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) bytes: Vec<u8>,
    /// The type it came with, where it came with one.
    pub(crate) media_type: Option<String>,
}

/// A stream of a layer's bytes from some offset on.
pub(crate) type LayerStream<'a> = Box<dyn Read + Send + 'a>;

/// Where the image of one reference lies.
pub(crate) trait Source: Send + Sync + fmt::Debug {
    /// The index or manifest that the reference names. `store` may answer for
    /// a reference that is pinned.
    fn root(&self, store: &Store) -> Result<RawDocument, SourceFailure>;

    /// A manifest or index by digest; at most [`crate::image::manifest::MAX_DOCUMENT`] bytes.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure>;

    /// A configuration by digest; at most [`crate::image::manifest::MAX_DOCUMENT`] bytes.
    fn config(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure>;

    /// A layer's bytes from `from` on, or from 0 if the source cannot begin in
    /// the middle, and which of the two.
    fn layer(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure>;

    /// Whether a stream that broke off may go on when asked for again.
    fn may_recover(&self) -> bool {
        false
    }

    /// Waits before the attempt after `failures` failed ones.
    fn pause(&self, _failures: u32) {}
}

/// The `index.json` of an OCI archive: which images it holds.
pub(crate) fn archive_index(path: &Path) -> Result<ImageIndex, ArchiveError> {
    layout::index_of_archive(path)
}

/// The source of a reference, where `registries` says how registries are reached.
pub(crate) fn open(
    reference: &Reference,
    registries: &Registries,
) -> Result<Arc<dyn Source>, SourceFailure> {
    Ok(match reference {
        Reference::Registry(reference) => Arc::new(registry::Registry::new(reference, registries)?),
        Reference::OciLayout { path, select } => Arc::new(layout::Layout::directory(path, select)?),
        Reference::OciArchive { path, select } => Arc::new(layout::Layout::archive(path, select)?),
        Reference::DockerArchive { path, name } => {
            Arc::new(docker_archive::DockerArchive::open(path, name.as_deref())?)
        }
    })
}
