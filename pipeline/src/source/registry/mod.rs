//! Images in registries, over the OCI distribution protocol.
//!
//! | subject | module |
//! |---|---|
//! | servers and their order | `registries` ([`Registries`]), `endpoints` |
//! | authentication | `credentials`, `challenge`, `token` |
//! | requests and retries | `client`, `retry` |
//! | uploads | `push` |
//! | redirects and the rules for each host | `http`, over [`crate::net`] |
//! | compressed responses | `content_encoding` |
//! | errors | `error` ([`RegistryError`]) |
//!
//! No server is trusted with content: documents are verified against their digest
//! here, layers by the caller.

mod challenge;
mod client;
mod content_encoding;
mod credentials;
mod endpoints;
pub(crate) mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod push;
mod registries;
mod retry;
mod token;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use microagent_cas::{Digest, Store};
use ureq::Body;
use ureq::http::Response;

pub use error::{RegistryError, RegistryProblem};
pub use push::Upstream;
pub(crate) use push::push;
pub use registries::{Registries, RegistriesError, RegistriesProblem};

use self::client::Client;
use self::endpoints::Endpoints;
use super::error::SourceFailure;
use super::{LayerStream, RawDocument, Source};
use crate::image::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, DOCKER_SCHEMA_1, LayerDescriptor, MAX_DOCUMENT, ManifestError,
    OCI_INDEX, OCI_MANIFEST,
};
use crate::image::reference::RegistryReference;

/// The supported manifest types.
const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

#[derive(Debug)]
pub(super) struct Registry {
    image: RegistryReference,
    endpoints: Endpoints,
    /// How many times each layer was opened. A layer that is opened again was
    /// interrupted; the next server continues it.
    streams: Mutex<HashMap<Digest, usize>>,
}

impl Registry {
    /// Prepares access to `image` without sending a request.
    pub(super) fn new(
        image: &RegistryReference,
        registries: &Registries,
    ) -> Result<Registry, SourceFailure> {
        Ok(Registry {
            image: image.clone(),
            endpoints: Endpoints::new(image, registries)?,
            streams: Mutex::default(),
        })
    }

    /// Returns a document from the first server whose content matches the digest.
    fn verified(
        &self,
        path: &str,
        accept: &str,
        digest: &Digest,
        what: &'static str,
    ) -> Result<Vec<u8>, SourceFailure> {
        self.endpoints.first(0, |client| {
            let (document, _) = document(client, path, accept)?;
            self.check(&document.bytes, digest, what)?;
            Ok(document.bytes)
        })
    }

    fn check(
        &self,
        bytes: &[u8],
        expected: &Digest,
        what: &'static str,
    ) -> Result<(), SourceFailure> {
        let actual = Digest::of(bytes);
        match actual == *expected {
            true => Ok(()),
            false => Err(ManifestError::WrongBytes {
                image: self.image.to_string(),
                what,
                expected: *expected,
                actual,
            }
            .into()),
        }
    }

    /// Checks a document against the digest in the response header. The header may be wrong where
    /// the document is not: Docker and podman do not look at it. Then the registry has the document
    /// under its actual digest, too.
    fn check_announced(
        &self,
        client: &Client,
        received: &RawDocument,
        announced: &Digest,
    ) -> Result<(), SourceFailure> {
        let checked = self.check(&received.bytes, announced, "manifest");
        if checked.is_ok() {
            return checked;
        }
        let path = format!("manifests/{}", Digest::of(&received.bytes));
        match document(client, &path, &ACCEPT.join(", ")) {
            Ok((again, _)) if again.bytes == received.bytes => Ok(()),
            Ok(_) | Err(_) => checked,
        }
    }

    fn stream_number(&self, layer: &Digest) -> usize {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.get(layer).copied().unwrap_or(0)
    }

    fn count_stream(&self, layer: &Digest) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        *streams.entry(*layer).or_default() += 1;
    }
}

impl Source for Registry {
    fn root(&self, store: &Store) -> Result<RawDocument, SourceFailure> {
        let pinned = self.image.digest;
        if let Some(digest) = pinned
            && let Some(bytes) = store.read_blob(&digest, MAX_DOCUMENT)?
        {
            return Ok(RawDocument {
                bytes,
                media_type: None,
            });
        }
        let path = format!("manifests/{}", self.image.manifest_name());
        self.endpoints.first(0, |client| {
            let (document, announced) = document(client, &path, &ACCEPT.join(", "))
                .map_err(|error| without_tag(client, error))?;
            // The digest of a signed schema 1 manifest excludes its signatures.
            let is_schema_1 = |media_type: &String| media_type.starts_with(DOCKER_SCHEMA_1);
            if document.media_type.as_ref().is_some_and(is_schema_1) {
                let image = self.image.to_string();
                return Err(ManifestError::Schema1 { image }.into());
            }
            let announced = announced.and_then(|digest| digest.parse().ok());
            match (pinned, announced) {
                (Some(expected), _) => self.check(&document.bytes, &expected, "manifest")?,
                (None, Some(expected)) => self.check_announced(client, &document, &expected)?,
                (None, None) => {}
            }
            Ok(document)
        })
    }

    fn manifest(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        let path = format!("manifests/{digest}");
        self.verified(&path, &ACCEPT.join(", "), digest, "manifest")
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, SourceFailure> {
        let path = format!("blobs/{digest}");
        self.verified(&path, "*/*", digest, "configuration")
    }

    fn layer(
        &self,
        layer: &LayerDescriptor,
        from: u64,
    ) -> Result<(u64, LayerStream<'_>), SourceFailure> {
        let skip = self.stream_number(&layer.digest);
        let stream = self
            .endpoints
            .first(skip, |client| open_layer(client, layer, from));
        let stream = stream.map_err(|error| match error {
            SourceFailure::Registry(error) if error.is_unknown_blob() && layer.is_foreign() => {
                ManifestError::LayerType {
                    layer: layer.digest,
                    image: self.image.to_string(),
                    media_type: layer.media_type.clone(),
                }
                .into()
            }
            error => error,
        })?;
        self.count_stream(&layer.digest);
        Ok(stream)
    }

    fn may_recover(&self) -> bool {
        true
    }

    fn pause(&self, failures: u32) {
        thread::sleep(retry::pause(failures));
    }
}

/// Downloads a document with its media type and the digest in the response header.
fn document(
    client: &Client,
    path: &str,
    accept: &str,
) -> Result<(RawDocument, Option<String>), SourceFailure> {
    for attempt in 1..=retry::ATTEMPTS {
        let answer = client.get(path, &[("Accept", accept)])?;
        if answer.response.status() != 200 {
            return Err(client.refusal(answer).into());
        }
        let media_type = header(&answer.response, "Content-Type");
        let digest = header(&answer.response, "Docker-Content-Digest");
        if let Some(bytes) = client.body(answer.response, MAX_DOCUMENT, path)? {
            return Ok((RawDocument { bytes, media_type }, digest));
        }
        if attempt < retry::ATTEMPTS {
            thread::sleep(retry::pause(attempt));
        }
    }
    Err(RegistryError {
        source: Some(format!("{path} was cut off in every attempt").into()),
        ..client.error(RegistryProblem::Disconnected)
    }
    .into())
}

/// Distinguishes an unknown tag from an unknown image, for which many registries
/// return the same error.
fn without_tag(client: &Client, error: SourceFailure) -> SourceFailure {
    let is_tag = |error: &RegistryError| matches!(*error.problem, RegistryProblem::UnknownTag);
    match error {
        SourceFailure::Registry(error) if is_tag(&error) => {
            let tags = client.get("tags/list?n=1", &[]);
            match tags.map(|answer| answer.response.status().as_u16()) {
                Ok(404) => client.error(RegistryProblem::UnknownImage).into(),
                _ => error.into(),
            }
        }
        error => error,
    }
}

/// Opens a layer at offset `from`, or at 0 if the server does not support ranges: whatever it
/// answers to a request for one other than that range, it is asked for the whole layer.
fn open_layer<'a>(
    client: &Client,
    layer: &LayerDescriptor,
    from: u64,
) -> Result<(u64, LayerStream<'a>), SourceFailure> {
    let path = format!("blobs/{}", layer.digest);
    let range = format!("bytes={from}-");
    let headers: &[(&str, &str)] = match from {
        0 => &[],
        _ => &[("Range", &range)],
    };
    let answer = client.get(&path, headers)?;
    // A range is one of the encoded content (RFC 9110, section 14.2).
    let is_encoded =
        content_encoding::is_gzip_around(&answer.response, layer.size.saturating_sub(from));
    let begin = match answer.response.status().as_u16() {
        200 => 0,
        206 if range_begin(&answer.response) == Some(from) && !is_encoded => from,
        _ if from > 0 => return open_layer(client, layer, 0),
        404 => {
            let problem = RegistryProblem::UnknownBlob(layer.digest);
            return Err(client.error(problem).into());
        }
        _ => return Err(client.refusal(answer).into()),
    };
    let is_encoded = content_encoding::is_gzip_around(&answer.response, layer.size);
    let body = answer.response.into_body().into_reader();
    let stream: LayerStream<'a> = match is_encoded && begin == 0 {
        true => Box::new(content_encoding::decoder(body)),
        false => Box::new(body),
    };
    Ok((begin, stream))
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    // Parameters such as `; charset=utf-8` are removed.
    Some(value.split(';').next().unwrap_or(value).trim().to_owned())
}

/// The offset of a partial response (206): `bytes FROM-TO/ALL`.
fn range_begin(response: &Response<Body>) -> Option<u64> {
    let value = header(response, "Content-Range")?;
    let (unit, range) = value.split_once(' ')?;
    let begin = range.split('-').next()?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    begin.trim().parse().ok()
}
