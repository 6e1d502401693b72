//! Image sources. A source serves one reference. The caller verifies the digest
//! of layers.

mod archive;
mod docker_archive;
mod error;
mod layout;
mod registry;

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use microagent_cas::{Digest, Store};

use crate::image::manifest::LayerDescriptor;
use crate::image::reference::Reference;

pub(crate) use error::SourceFailure;
pub use error::{ArchiveError, ArchiveProblem, Format as ArchiveFormat};
pub(crate) use layout::OciArchive;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use registry::fuzzing;
pub(crate) use registry::push;
pub use registry::{
    Registries, RegistriesError, RegistriesProblem, RegistryError, RegistryProblem, Upstream,
};

/// An index or manifest, unparsed.
#[derive(Debug)]
pub(crate) struct RawDocument {
    pub(crate) bytes: Vec<u8>,
    /// Its media type, if the source knows it.
    pub(crate) media_type: Option<String>,
}

/// The content of a layer from some offset on.
pub(crate) type LayerStream<'a> = Box<dyn Read + Send + 'a>;

/// The source of the image of one reference.
pub(crate) trait Source: Send + Sync + fmt::Debug {
    /// Returns the index or manifest that the reference names. It may be read from
    /// `store` if the reference has a digest.
    fn root(&self, store: &Store) -> Result<RawDocument, SourceFailure>;

    /// Returns a manifest or index by digest, at most [`crate::image::manifest::MAX_DOCUMENT`]
    /// bytes.
    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure>;

    /// Returns a configuration by digest, at most [`crate::image::manifest::MAX_DOCUMENT`] bytes.
    fn config(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure>;

    /// Opens a layer at offset `from`, or at 0 if the source does not support
    /// offsets. Returns the actual offset and the stream.
    fn layer(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure>;

    /// Whether an interrupted stream may be resumed with another call of
    /// [`Source::layer`].
    fn may_recover(&self) -> bool {
        false
    }

    /// Waits before the next attempt after `failures` failed ones.
    fn pause(&self, _failures: u32) {}
}

/// The name that selects an entry of an archive or a layout by its number, from 0, as in skopeo
/// (`docker-archive:FILE:@1`). No other name begins with `@`.
fn nth(number: usize) -> String {
    format!("@{number}")
}

/// The number in a name of the form of [`nth`].
fn number_of(name: &str) -> Option<usize> {
    name.strip_prefix('@')?.parse().ok()
}

/// Opens the source of a reference. `registries` configures access to registries, `store` provides
/// scratch space.
///
/// # Errors
/// When an archive or layout cannot be used, or the registries' settings are invalid.
pub(crate) fn open(
    reference: &Reference,
    registries: &Registries,
    store: &Store,
) -> Result<Arc<dyn Source>, SourceFailure> {
    let image = &reference.to_string();
    Ok(match reference {
        Reference::Registry(reference) => Arc::new(registry::Registry::new(reference, registries)?),
        Reference::OciLayout { path, select } => {
            Arc::new(layout::Layout::directory(path, select, image)?)
        }
        Reference::OciArchive { path, select } => {
            OciArchive::open(path, store)?.image(select, image)?
        }
        Reference::DockerArchive { path, name } => Arc::new(docker_archive::DockerArchive::open(
            path,
            name.as_deref(),
            store,
        )?),
    })
}
