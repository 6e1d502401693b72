//! Pushing an image to a registry (OCI distribution, "Push"): blobs that it does not have, then the
//! manifest. Mirrors are not used.

use std::fs::File;
use std::path::PathBuf;

use microagent_cas::Digest;
use ureq::http::Uri;

use super::client::Client;
use super::error::{RegistryError, RegistryProblem};
use super::http::{Answer, Content, Method};
use super::registries::Registries;
use super::{endpoints::Endpoints, error};
use crate::image::manifest::OCI_MANIFEST;
use crate::image::reference::RegistryReference;
use crate::net::redirect::join;

/// An image to push.
#[derive(Debug, Clone)]
pub struct Upstream<'a> {
    /// The blobs, with their files: layers and configuration.
    pub blobs: &'a [(Digest, PathBuf)],
    /// The manifest, an OCI one.
    pub manifest: &'a [u8],
}

/// Pushes `image` to `reference`; `advance` is told how many bytes of blobs were sent, or were
/// there already.
///
/// # Errors
/// [`RegistryError`], and [`error::RegistryProblem::Blob`] if a file cannot be read.
pub(crate) fn push(
    reference: &RegistryReference,
    registries: &Registries,
    image: &Upstream<'_>,
    advance: &dyn Fn(u64),
) -> Result<(), RegistryError> {
    let endpoints = Endpoints::new(reference, registries)?;
    let client = endpoints.registry();
    for (digest, path) in image.blobs {
        let unreadable = |reason: std::io::Error| {
            client.error(error::RegistryProblem::Blob {
                path: path.clone(),
                reason: reason.to_string(),
            })
        };
        let file = File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        if !client.has_blob(digest)? {
            client.put_blob(digest, path, size)?;
        }
        advance(size);
    }
    client.put_manifest(&reference.manifest_name(), image.manifest)
}

impl Client {
    fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let answer = self.send_to(&format!("blobs/{digest}"), &[], Method::Head)?;
        // Of any other answer, the upload says why.
        Ok(answer.response.status() == 200)
    }

    fn put_blob(
        &self,
        digest: &Digest,
        path: &std::path::Path,
        size: u64,
    ) -> Result<(), RegistryError> {
        let answer = self.send_to("blobs/uploads/", &[], Method::Post)?;
        if answer.response.status() != 202 {
            return Err(self.refusal(answer));
        }
        let location = location(&answer).ok_or_else(|| self.error(RegistryProblem::Protocol))?;
        let url = self.resolve(&location);
        let url = url.ok_or_else(|| self.error(RegistryProblem::Protocol))?;
        // The location may have parameters already.
        let separator = if url.query().is_some() { '&' } else { '?' };
        let url = format!("{url}{separator}digest={digest}");
        let url: Uri = url
            .parse()
            .map_err(|_| self.error(RegistryProblem::Protocol))?;
        let headers = [("Content-Type", "application/octet-stream")];
        let answer = self.put_to(&url, &headers, Content::File(path, size))?;
        self.created(answer)
    }

    fn put_manifest(&self, name: &str, manifest: &[u8]) -> Result<(), RegistryError> {
        let headers = [("Content-Type", OCI_MANIFEST)];
        let put = Method::Put(Content::Bytes(manifest));
        let answer = self.send_to(&format!("manifests/{name}"), &headers, put)?;
        self.created(answer)
    }

    fn created(&self, answer: Answer) -> Result<(), RegistryError> {
        match answer.response.status().as_u16() {
            201 => Ok(()),
            _ => Err(self.refusal(answer)),
        }
    }

    /// A location in an answer of the registry as a whole URL.
    fn resolve(&self, location: &str) -> Option<Uri> {
        let base: Uri = self.url_of("blobs/uploads/")?.parse().ok()?;
        join(&base, location)
    }
}

fn location(answer: &Answer) -> Option<String> {
    let value = answer.response.headers().get("Location")?;
    Some(value.to_str().ok()?.to_owned())
}
