//! `docker-archive:FILE`: the format of `docker save`.
//!
//! `manifest.json` lists each image as a configuration and layer files. The archive
//! has no OCI manifest, so a deterministic one is generated. The digest of an
//! uncompressed layer file is its diff id in the configuration; a compressed one,
//! which some tools write, is hashed.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use microagent_cas::{Digest, Hasher, Store};
use serde::Deserializer;

use super::archive::{Archive, Extent};
use super::error::{ArchiveError, ArchiveProblem, SourceFailure};
use super::{LayerStream, RawDocument, Source, nth, number_of};
use crate::image::go_json::{self, Decode, Fields};
use crate::image::manifest::{
    Configuration, LayerDescriptor, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST,
};
use crate::tar::decompress::{self, Compression, MAGIC_LEN};

#[derive(Debug)]
pub(super) struct DockerArchive {
    archive: Archive,
    config: Vec<u8>,
    manifest: Vec<u8>,
    layers: HashMap<Digest, Extent>,
}

/// An entry of `manifest.json`.
#[derive(Debug, Default)]
struct ManifestEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Fields for ManifestEntry {
    const NAMES: &'static [&'static str] = &["Config", "RepoTags", "Layers", "Parent"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "Config" => self.config.decode(input),
            "RepoTags" => self.repo_tags.decode(input),
            "Layers" => self.layers.decode(input),
            _ => String::new().decode(input),
        }
    }
}

impl DockerArchive {
    pub(super) fn open(
        path: &Path,
        name: Option<&str>,
        store: &Store,
    ) -> Result<DockerArchive, SourceFailure> {
        DockerArchive::of(Archive::open(path, store)?, name).map_err(SourceFailure::from)
    }

    fn of(archive: Archive, name: Option<&str>) -> Result<DockerArchive, ArchiveError> {
        let path = archive.path();
        if archive.find("manifest.json").is_none() {
            return Err(archive.is_not("a docker-save archive"));
        }
        let bytes = archive.read("manifest.json")?;
        let saved: Vec<ManifestEntry> = parse("manifest.json", &bytes).map_err(|p| p.at(path))?;
        let saved = choose(saved, name).map_err(|problem| problem.at(path))?;
        let config = archive.read(&saved.config)?;
        let document: Configuration = parse(&saved.config, &config).map_err(|p| p.at(path))?;
        let diff_ids = document.rootfs.diff_ids;
        let files = saved.layers;
        if diff_ids.len() != files.len() {
            return Err(ArchiveProblem::Malformed {
                name: saved.config,
                reason: format!("{} layers, but {} files", diff_ids.len(), files.len()),
            }
            .at(path));
        }
        let mut layers = HashMap::new();
        let mut descriptors = Vec::new();
        for (file, diff_id) in files.iter().zip(&diff_ids) {
            let extent = archive.require(file)?;
            let (digest, media_type) = identify(&archive, extent, diff_id, &saved.config)?;
            descriptors.push(serde_json::json!({
                "mediaType": media_type, "digest": digest, "size": extent.size,
            }));
            layers.insert(digest, extent);
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": OCI_CONFIG, "digest": Digest::of(&config), "size": config.len(),
            },
            "layers": descriptors,
        });
        Ok(DockerArchive {
            archive,
            config,
            manifest: manifest.to_string().into_bytes(),
            layers,
        })
    }
}

impl Source for DockerArchive {
    fn root(&self, _: &Store) -> Result<RawDocument, SourceFailure> {
        Ok(RawDocument {
            bytes: self.manifest.clone(),
            media_type: Some(OCI_MANIFEST.into()),
        })
    }

    fn manifest(&self, _: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.manifest.clone())
    }

    fn config(&self, _: &Digest) -> Result<Vec<u8>, SourceFailure> {
        Ok(self.config.clone())
    }

    fn layer(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure> {
        let extent = self.layers.get(&layer.digest).copied().ok_or_else(|| {
            ArchiveProblem::Missing(format!("layer {}", layer.digest)).at(self.archive.path())
        })?;
        Ok((from, Box::new(self.archive.stream(extent, from))))
    }
}

fn parse<T: Decode>(name: &str, bytes: &[u8]) -> Result<T, ArchiveProblem> {
    go_json::from_slice(bytes).map_err(|error| ArchiveProblem::Malformed {
        name: name.to_owned(),
        reason: error.to_string(),
    })
}

/// Selects the image with the tag or number `name`, or the only image.
fn choose(
    mut saved: Vec<ManifestEntry>,
    name: Option<&str>,
) -> Result<ManifestEntry, ArchiveProblem> {
    let names = |(number, image): (usize, &ManifestEntry)| match image.repo_tags.is_empty() {
        true => vec![nth(number)],
        false => image.repo_tags.clone(),
    };
    let available: Vec<String> = saved.iter().enumerate().flat_map(names).collect();
    if let Some(number) = name.and_then(number_of)
        && number < saved.len()
    {
        return Ok(saved.swap_remove(number));
    }
    let wanted = |image: &ManifestEntry| {
        let mut tags = image.repo_tags.iter();
        name.is_none_or(|name| tags.any(|tag| is_same(tag, name)))
    };
    let mut matching = saved.into_iter().filter(wanted);
    match (matching.next(), matching.next(), name) {
        (Some(image), None, _) | (Some(image), Some(_), Some(_)) => Ok(image),
        (Some(_), Some(_), None) => Err(ArchiveProblem::Ambiguous { available }),
        (None, _, Some(name)) => Err(ArchiveProblem::NoSuchImage {
            name: name.to_owned(),
            available,
        }),
        (None, _, None) => Err(ArchiveProblem::Empty),
    }
}

/// Compares image names. `docker save` writes short names, skopeo full ones.
fn is_same(tag: &str, name: &str) -> bool {
    let full = |text: &str| text.parse::<crate::Reference>().ok();
    tag == name || full(tag).is_some_and(|tag| Some(tag) == full(name))
}

/// Returns the digest and media type of a layer file.
fn identify(
    archive: &Archive,
    extent: Extent,
    diff_id: &str,
    config: &str,
) -> Result<(Digest, &'static str), ArchiveError> {
    let read_failed = |error| ArchiveProblem::Read(error).at(archive.path());
    let mut magic = Vec::new();
    (archive.stream(extent, 0).take(MAGIC_LEN as u64))
        .read_to_end(&mut magic)
        .map_err(read_failed)?;
    if decompress::detect(&magic) == Ok(Compression::None) {
        let digest = diff_id.parse().map_err(|_| {
            ArchiveProblem::Malformed {
                name: config.to_owned(),
                reason: format!("{diff_id:?} is not a sha256 digest"),
            }
            .at(archive.path())
        })?;
        return Ok((digest, OCI_LAYER));
    }
    let mut hasher = Hasher::new();
    let mut stream = archive.stream(extent, 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer).map_err(read_failed)? {
            0 => return Ok((hasher.finish(), OCI_LAYER_GZIP)),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests;
