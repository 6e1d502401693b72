//! An image of a registry that speaks the OCI distribution protocol.

mod challenge;
mod client;
mod credentials;
mod error;

use std::path::PathBuf;
use std::thread;

use microagent_cas::{Digest, Store};
use ureq::Body;
use ureq::http::Response;

pub use error::{RegistryError, RegistryProblem};

use self::client::Client;
use super::{LayerStream, RawDocument, Source};
use crate::error::Error;
use crate::layer::LayerError;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, LayerDescriptor, MAX_DOCUMENT, ManifestError, OCI_INDEX,
    OCI_MANIFEST,
};
use crate::reference::RegistryReference;

/// How often a document that breaks off is asked for.
const ATTEMPTS: u32 = 4;

#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
}

impl Registry {
    /// Prepares for `image`; nothing is asked yet.
    pub(super) fn new(image: &RegistryReference) -> Result<Registry, Error> {
        let credentials = match std::env::var_os(credentials::VARIABLE) {
            Some(path) if !path.is_empty() => {
                let path = PathBuf::from(path);
                credentials::read(&path, image).map_err(|reason| RegistryError {
                    image: image.to_string(),
                    registry: image.registry.clone(),
                    problem: RegistryProblem::AuthFile { path, reason },
                    source: None,
                })?
            }
            _ => None,
        };
        Ok(Registry {
            client: Client::new(image, credentials),
        })
    }

    /// Tells an unknown tag from an unknown image: registries answer both alike.
    fn without_tag(&self, error: Error) -> Error {
        let is_tag = |error: &RegistryError| matches!(error.problem, RegistryProblem::UnknownTag);
        match error {
            Error::Registry(error) if is_tag(&error) => {
                let tags = self.client.get("tags/list?n=1", &[]);
                let status = tags.map(|response| response.status().as_u16());
                match status {
                    Ok(404) => self.client.error(RegistryProblem::UnknownImage).into(),
                    _ => error.into(),
                }
            }
            error => error,
        }
    }

    /// A small document, with its media type and the digest it was announced with.
    fn document(&self, path: &str, accept: &str) -> Result<(RawDocument, Option<String>), Error> {
        for attempt in 1..=ATTEMPTS {
            let response = self.client.get(path, &[("Accept", accept)])?;
            if response.status() != 200 {
                return Err(self.client.refusal(response).into());
            }
            let media_type = header(&response, "Content-Type");
            let digest = header(&response, "Docker-Content-Digest");
            if let Some(bytes) = self.client.body(response, MAX_DOCUMENT, path)? {
                return Ok((RawDocument { bytes, media_type }, digest));
            }
            thread::sleep(client::pause(attempt));
        }
        Err(RegistryError {
            source: Some(format!("{path} never came whole").into()),
            ..self.client.error(RegistryProblem::Broken)
        }
        .into())
    }
}

impl Source for Registry {
    fn root(&self, store: &Store) -> Result<RawDocument, Error> {
        let pinned = self.client.image().digest;
        if let Some(digest) = pinned
            && let Some(bytes) = store.read_blob(&digest, MAX_DOCUMENT)?
        {
            return Ok(RawDocument {
                bytes,
                media_type: None,
            });
        }
        let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let path = format!("manifests/{}", self.client.image().manifest_name());
        let (document, announced) = self
            .document(&path, &accept)
            .map_err(|error| self.without_tag(error))?;
        let announced = announced.and_then(|digest| digest.parse().ok());
        if let Some(expected) = pinned.or(announced) {
            let actual = Digest::of(&document.bytes);
            if actual != expected {
                return Err(ManifestError::WrongBytes {
                    image: self.client.image().to_string(),
                    what: "manifest",
                    expected,
                    actual,
                }
                .into());
            }
        }
        Ok(document)
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let accept = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST].join(", ");
        let (document, _) = self.document(&format!("manifests/{digest}"), &accept)?;
        Ok(document.bytes)
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let (document, _) = self.document(&format!("blobs/{digest}"), "*/*")?;
        Ok(document.bytes)
    }

    fn layer(&self, layer: &LayerDescriptor, from: u64) -> Result<(u64, LayerStream<'_>), Error> {
        let path = format!("blobs/{}", layer.digest);
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = match from {
            0 => &[],
            _ => &[("Range", &range)],
        };
        let response = self.client.get(&path, headers)?;
        let begin = match response.status().as_u16() {
            200 => 0,
            206 if range_begin(&response) == Some(from) => from,
            // A server that cannot give the rest can give the whole.
            206 | 416 if from > 0 => return self.layer(layer, 0),
            404 if layer.is_foreign() => {
                return Err(LayerError::MediaType {
                    layer: layer.digest,
                    image: self.client.image().to_string(),
                    media_type: layer.media_type.clone(),
                }
                .into());
            }
            404 => {
                let problem = RegistryProblem::UnknownBlob(layer.digest);
                return Err(self.client.error(problem).into());
            }
            _ => return Err(self.client.refusal(response).into()),
        };
        Ok((begin, Box::new(response.into_body().into_reader())))
    }

    fn may_recover(&self) -> bool {
        true
    }

    fn pause(&self, failures: u32) {
        thread::sleep(client::pause(failures));
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    // Without parameters such as `; charset=utf-8`.
    Some(value.split(';').next().unwrap_or(value).trim().to_owned())
}

/// Where the part begins that a 206 holds: `bytes FROM-TO/ALL`.
fn range_begin(response: &Response<Body>) -> Option<u64> {
    let value = header(response, "Content-Range")?;
    let begin = value.strip_prefix("bytes ")?.split('-').next()?;
    begin.trim().parse().ok()
}
