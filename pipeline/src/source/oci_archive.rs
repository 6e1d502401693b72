//! `oci-archive:FILE`: an OCI image layout in a tar file, read in place.

use std::path::Path;

use microagent_cas::{Digest, Store};

use super::archive::{Archive, ArchiveProblem, blob_name};
use super::layout::{Root, select_root, wrong};
use super::{LayerStream, RawDocument, Source};
use crate::error::Error;
use crate::manifest::LayerDescriptor;
use crate::reference::Selector;

#[derive(Debug)]
pub(super) struct OciArchive {
    archive: Archive,
    root: Root,
}

impl OciArchive {
    pub(super) fn open(path: &Path, select: &Selector) -> Result<OciArchive, Error> {
        let archive = Archive::open(path)?;
        if archive.find("index.json").is_none() {
            return Err(ArchiveProblem::NotThat("an OCI archive").at(path));
        }
        let index = archive.read("index.json")?;
        let root = select_root(&index, select).map_err(|problem| problem.at(path))?;
        Ok(OciArchive { archive, root })
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let bytes = self.archive.read(&blob_name(digest))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(wrong(digest).at(self.archive.path())),
        }
    }
}

impl Source for OciArchive {
    fn root(&self, _: &Store) -> Result<RawDocument, Error> {
        Ok(RawDocument {
            bytes: self.document(&self.root.digest)?,
            media_type: Some(self.root.media_type.clone()),
        })
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.document(digest)
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        self.document(digest)
    }

    fn layer(&self, layer: &LayerDescriptor, from: u64) -> Result<(u64, LayerStream<'_>), Error> {
        let extent = self.archive.want(&blob_name(&layer.digest))?;
        Ok((from, Box::new(self.archive.stream(extent, from))))
    }
}
