//! `oci:DIR`: an OCI image layout directory. Host paths are made from digests
//! only, never from what the layout says.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use microagent_cas::{Digest, Store};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};

use super::archive::{ArchiveProblem, blob_name, open_file, read_small};
use super::{LayerStream, RawDocument, Source};
use crate::error::Error;
use crate::manifest::{self, LayerDescriptor};
use crate::reference::Selector;

#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    root: Root,
}

/// The index's entry that a reference names.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

impl Layout {
    pub(super) fn open(path: &Path, select: &Selector) -> Result<Layout, Error> {
        if !path.exists() {
            return Err(ArchiveProblem::Absent.at(path));
        }
        let index = path.join("index.json");
        if !path.is_dir() || !index.exists() {
            return Err(ArchiveProblem::NotThat("an OCI image layout directory").at(path));
        }
        let bytes = read_small(open_file(&index)?, &index, "index.json")?;
        let root = select_root(&bytes, select).map_err(|problem| problem.at(path))?;
        Ok(Layout {
            path: path.to_owned(),
            root,
        })
    }

    fn blob(&self, digest: &Digest) -> Result<File, Error> {
        let name = blob_name(digest);
        match File::open(self.path.join(&name)) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ArchiveProblem::Missing(name).at(&self.path))
            }
            Err(error) => Err(ArchiveProblem::Open(error).at(&self.path.join(name))),
        }
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let bytes = read_small(self.blob(digest)?, &self.path, &blob_name(digest))?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(wrong(digest).at(&self.path)),
        }
    }
}

impl Source for Layout {
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
        let mut file = self.blob(&layer.digest)?;
        file.seek(SeekFrom::Start(from))
            .map_err(|error| ArchiveProblem::Read(error).at(&self.path))?;
        Ok((from, Box::new(file)))
    }
}

/// The problem of a blob that is not what its name says.
pub(super) fn wrong(digest: &Digest) -> ArchiveProblem {
    ArchiveProblem::Malformed {
        name: blob_name(digest),
        reason: "its content does not have that digest".into(),
    }
}

/// Picks the entry of a layout's `index.json` that is meant.
pub(super) fn select_root(index: &[u8], select: &Selector) -> Result<Root, ArchiveProblem> {
    let malformed = |reason: String| ArchiveProblem::Malformed {
        name: "index.json".into(),
        reason,
    };
    let index: ImageIndex =
        serde_json::from_slice(index).map_err(|error| malformed(error.to_string()))?;
    let names = || -> Vec<String> {
        let names = index.manifests().iter().filter_map(ref_name);
        names.map(str::to_owned).collect()
    };
    let root = |descriptor: &Descriptor| -> Result<Root, ArchiveProblem> {
        Ok(Root {
            digest: manifest::digest(descriptor, "index.json")
                .map_err(|error| malformed(error.to_string()))?,
            media_type: descriptor.media_type().to_string(),
        })
    };
    match select {
        Selector::Only => match index.manifests().as_slice() {
            [] => Err(ArchiveProblem::Empty),
            [only] => root(only),
            _ => Err(ArchiveProblem::Ambiguous { available: names() }),
        },
        Selector::Name(name) => {
            let found = (index.manifests().iter()).find(|m| ref_name(m) == Some(name));
            found
                .ok_or_else(|| ArchiveProblem::NoSuchImage {
                    name: name.clone(),
                    available: names(),
                })
                .and_then(root)
        }
        // Any manifest of the layout may be meant, also one that only a nested
        // index names; whether it is there shows when it is read.
        Selector::Digest(digest) => {
            let entry =
                (index.manifests().iter()).find(|m| m.digest().to_string() == digest.to_string());
            Ok(Root {
                digest: *digest,
                media_type: entry.map_or_else(String::new, |m| m.media_type().to_string()),
            })
        }
    }
}

fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(ANNOTATION_REF_NAME).map(String::as_str)
}
