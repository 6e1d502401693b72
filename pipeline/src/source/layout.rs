//! `oci:DIR` and `oci-archive:FILE`: an OCI image layout in a directory or in a
//! tar file. The two differ only in how a file of the layout is opened ([`Files`]).
//!
//! File names are derived from digests, never taken from documents of the layout.

mod files;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use microagent_cas::{Digest, Store};
use oci_spec::image::ANNOTATION_REF_NAME;

use self::files::Directory;
use super::archive::{Archive, blob_name};
use super::error::{ArchiveError, ArchiveProblem, SourceFailure};
use super::{LayerStream, RawDocument, Source, nth, number_of};
use crate::image::manifest::{self, Descriptor, Index, LayerDescriptor};
use crate::image::reference::Selector;

/// Access to the files of a layout by name.
trait Files: Send + Sync + fmt::Debug {
    /// The path of the directory or tar file, for errors.
    fn path(&self) -> &Path;

    /// Reads a file of at most [`manifest::MAX_DOCUMENT`] bytes.
    fn read(&self, name: &str) -> Result<Vec<u8>, ArchiveError>;

    /// Opens a file at offset `from`.
    fn stream(&self, name: &str, from: u64) -> Result<LayerStream<'_>, ArchiveError>;
}

/// One image of a layout.
#[derive(Debug)]
pub(super) struct Layout {
    files: Arc<dyn Files>,
    root: Root,
}

/// The entry of the index that the reference selects.
#[derive(Debug)]
struct Root {
    digest: Digest,
    media_type: String,
}

impl Layout {
    /// Opens the layout in the directory `path`.
    pub(super) fn directory(
        path: &Path,
        select: &Selector,
        image: &str,
    ) -> Result<Layout, SourceFailure> {
        Layout::of(Arc::new(Directory::open(path)?), select, image)
    }

    fn of(files: Arc<dyn Files>, select: &Selector, image: &str) -> Result<Layout, SourceFailure> {
        let index = files.read("index.json")?;
        let entry = select_entry(&index, select).map_err(|problem| problem.at(files.path()))?;
        let root = Root {
            digest: manifest::digest(&entry, image)?,
            media_type: entry.media_type,
        };
        Ok(Layout { files, root })
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let name = blob_name(digest);
        let bytes = self.files.read(&name)?;
        let actual = Digest::of(&bytes);
        match actual == *digest {
            true => Ok(bytes),
            false => Err(ArchiveProblem::Malformed {
                name,
                reason: format!("digest mismatch: got {actual}"),
            }
            .at(self.files.path())),
        }
    }
}

/// A layout in a tar file. It is opened once for all its images: a pipe can be read only once.
#[derive(Debug)]
pub(crate) struct OciArchive {
    archive: Arc<Archive>,
}

impl OciArchive {
    /// Opens the tar file `path`; `store` provides scratch space.
    ///
    /// # Errors
    /// When it is not a readable OCI archive.
    pub(crate) fn open(path: &Path, store: &Store) -> Result<OciArchive, SourceFailure> {
        let archive = Archive::open(path, store)?;
        match archive.find("index.json") {
            Some(_) => Ok(OciArchive {
                archive: Arc::new(archive),
            }),
            None => Err(archive.is_not("an OCI archive").into()),
        }
    }

    /// Its `index.json`, which lists its images.
    ///
    /// # Errors
    /// When it is not valid.
    pub(crate) fn index(&self) -> Result<Index, ArchiveError> {
        let bytes = self.archive.read("index.json")?;
        parse_index(&bytes).map_err(|problem| problem.at(self.archive.path()))
    }

    /// One of its images.
    ///
    /// # Errors
    /// When there is no such image, or more than one. `image` names it in errors.
    pub(crate) fn image(
        &self,
        select: &Selector,
        image: &str,
    ) -> Result<Arc<dyn Source>, SourceFailure> {
        let files: Arc<dyn Files> = self.archive.clone();
        Ok(Arc::new(Layout::of(files, select, image)?))
    }
}

fn parse_index(bytes: &[u8]) -> Result<Index, ArchiveProblem> {
    manifest::parse_index(bytes).map_err(|error| ArchiveProblem::Malformed {
        name: "index.json".into(),
        reason: error.to_string(),
    })
}

impl Source for Layout {
    fn root(&self, _: &Store) -> Result<RawDocument, SourceFailure> {
        Ok(RawDocument {
            bytes: self.document(&self.root.digest)?,
            media_type: Some(self.root.media_type.clone()),
        })
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.document(digest)?)
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.document(digest)?)
    }

    fn layer(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure> {
        let stream = self.files.stream(&blob_name(&layer.digest), from)?;
        Ok((from, stream))
    }
}

/// Selects an entry of a layout's `index.json`.
fn select_entry(index: &[u8], select: &Selector) -> Result<Descriptor, ArchiveProblem> {
    let index = parse_index(index)?;
    let names = || -> Vec<String> {
        let name = |(number, entry)| ref_name(entry).map_or_else(|| nth(number), str::to_owned);
        index.manifests.iter().enumerate().map(name).collect()
    };
    let found = match select {
        Selector::Only => match index.manifests.as_slice() {
            [] => return Err(ArchiveProblem::Empty),
            [only] => only,
            _ => return Err(ArchiveProblem::Ambiguous { available: names() }),
        },
        Selector::Name(name) => {
            let named = (index.manifests.iter()).find(|m| ref_name(m) == Some(name));
            let found = named.or_else(|| index.manifests.get(number_of(name)?));
            found.ok_or_else(|| ArchiveProblem::NoSuchImage {
                name: name.clone(),
                available: names(),
            })?
        }
        // The manifest may be listed only in a nested index. A missing one is
        // reported when it is read.
        Selector::Digest(digest) => {
            let digest = digest.to_string();
            let entry = (index.manifests.iter()).find(|m| m.digest == digest);
            return Ok(entry.cloned().unwrap_or_else(|| Descriptor {
                digest,
                ..Descriptor::default()
            }));
        }
    };
    Ok(found.clone())
}

fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    let name = descriptor.annotations.get(ANNOTATION_REF_NAME);
    name.map(String::as_str)
}
