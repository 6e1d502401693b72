//! Requests to one repository on one server: scheme, authentication,
//! retries.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::challenge::{self, Challenge};
use super::content_encoding;
use super::credentials::{Credentials, Lookup};
use super::error::{RegistryError, RegistryProblem};
use super::http::{Answer, Content, Failure, Http, Method, Origin, Request};
use super::retry;
use crate::image::reference::RegistryReference;
use crate::net::tls::host_directory;

/// Maximum length in bytes of an error document.
const MAX_ANSWER: u64 = 64 << 10;
/// Maximum length in characters of a server's message in an error.
const MAX_DETAIL: usize = 200;

/// A client for one image at its registry, or at a mirror of it.
#[derive(Debug)]
pub(super) struct Client {
    http: Arc<Http>,
    /// The image under its name at this server.
    image: RegistryReference,
    /// The reference that the user gave.
    reference: String,
    known: Lookup,
    /// The directory with certificates for the server.
    certificates: Option<PathBuf>,
    /// Whether plain HTTP is tried if HTTPS fails.
    is_insecure: bool,
    /// The scheme that an insecure server or one on the loopback interface supports, once known.
    scheme: OnceLock<&'static str>,
    attempts: u32,
    /// How the server wants requests to be authorised, once known; `None` if it does not.
    challenge: Mutex<Option<Option<Challenge>>>,
    /// The current `Authorization`.
    authorization: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(
        http: &Arc<Http>,
        image: &RegistryReference,
        reference: &RegistryReference,
        known: Lookup,
        is_insecure: bool,
    ) -> Client {
        let is_mirror = image.registry != reference.registry;
        Client {
            http: Arc::clone(http),
            image: image.clone(),
            reference: reference.to_string(),
            known,
            certificates: host_directory(&image.registry),
            is_insecure,
            scheme: OnceLock::new(),
            attempts: match is_mirror {
                true => retry::ATTEMPTS_AT_A_MIRROR,
                false => retry::ATTEMPTS,
            },
            challenge: Mutex::default(),
            authorization: Mutex::new(None),
        }
    }

    /// The image under its name at this server.
    pub(super) fn image(&self) -> &RegistryReference {
        &self.image
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn certificates(&self) -> Option<&Path> {
        self.certificates.as_deref()
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match &self.known {
            Lookup::Credentials(credentials) => Some(credentials),
            Lookup::None | Lookup::Helper { .. } => None,
        }
    }

    /// An error about this image at this server.
    pub(super) fn error(&self, problem: RegistryProblem) -> RegistryError {
        RegistryError {
            image: self.reference.clone(),
            registry: self.image.registry.clone(),
            other_host: None,
            problem: Box::new(problem),
            mirrors: Vec::new(),
            source: None,
        }
    }

    fn failed(&self, failure: Failure) -> RegistryError {
        let adds_detail = matches!(
            *failure.problem,
            RegistryProblem::Tls | RegistryProblem::Disconnected | RegistryProblem::Protocol
        );
        RegistryError {
            other_host: failure.other_host,
            source: (failure.source)
                .filter(|_| adds_detail)
                .map(|error| error as _),
            ..self.error(*failure.problem)
        }
    }

    /// GETs `/v2/<repository>/<path>`, with retries, and authenticates if the
    /// registry requires it. Returns a success or a permanent error.
    ///
    /// The request itself is sent first: a server that allows it needs no other, and a 401 tells
    /// how to authenticate. Some servers tell that only at `/v2/` (OCI distribution, "Determining
    /// Support"), and answer other requests without `Authorization` with a bare 401, 403 or 404.
    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, RegistryError> {
        self.send_to(path, headers, Method::Get)
    }

    /// The same with another method.
    pub(super) fn send_to(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        method: Method<'_>,
    ) -> Result<Answer, RegistryError> {
        let path = format!("{}/{path}", self.image.repository);
        self.authorized(|authorization| self.try_send(&path, headers, authorization, method))
    }

    /// PUTs to a URL that the registry has given. Another server gets no `Authorization`, and cannot
    /// request one: it could name any token server.
    pub(super) fn put_to(
        &self,
        url: &Uri,
        headers: &[(&str, &str)],
        content: Content<'_>,
    ) -> Result<Answer, RegistryError> {
        let own = self.url_of("").and_then(|own| own.parse::<Uri>().ok());
        let is_own = own.is_some_and(|own| Origin::of(&own) == Origin::of(url));
        let put = |authorization: Option<&str>| {
            self.http.send(&Request {
                url,
                headers,
                authorization,
                method: Method::Put(content),
                for_loopback: self.image.is_loopback(),
                certificates: self.certificates(),
            })
        };
        match is_own {
            true => self.authorized(put),
            false => self.with_retries(|| put(None)),
        }
    }

    /// The URL of `path` in the repository, once the scheme is known.
    pub(super) fn url_of(&self, path: &str) -> Option<String> {
        let is_fixed = !self.image.is_loopback() && !self.is_insecure;
        let scheme = if is_fixed {
            "https"
        } else {
            self.scheme.get()?
        };
        let (endpoint, repository) = (self.image.endpoint(), &self.image.repository);
        Some(format!("{scheme}://{endpoint}/v2/{repository}/{path}"))
    }

    /// Sends a request, and authenticates as described above.
    fn authorized(
        &self,
        send: impl Fn(Option<&str>) -> Result<Answer, Failure>,
    ) -> Result<Answer, RegistryError> {
        let mut renewed = false;
        loop {
            let authorization = self.authorization().clone();
            let answer = self.with_retries(|| send(authorization.as_deref()))?;
            // Only the registry itself may request authentication: the target of a
            // redirect could name any token server.
            if answer.other_host.is_some() || renewed {
                return Ok(answer);
            }
            let challenge = match answer.response.status().as_u16() {
                401 => challenge_of(&answer).or_else(|| self.challenge_of_server()),
                403 | 404 if authorization.is_none() => self.challenge_of_server(),
                _ => None,
            };
            let Some(challenge) = challenge else {
                return Ok(answer);
            };
            renewed = true;
            let mut current = self.authorization();
            // Another thread may have renewed it.
            if *current == authorization {
                match self.authorization_for(&challenge) {
                    Ok(value) => *current = Some(value),
                    // The server may be right: without credentials the image may not exist.
                    Err(_) if answer.response.status() != 401 && self.credentials().is_none() => {
                        return Ok(answer);
                    }
                    Err(error) => return Err(error),
                }
            }
            drop(current);
            let mut known = self
                .challenge
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *known = Some(Some(challenge));
        }
    }

    /// The challenge in the last 401, or else that of `/v2/`, which is asked once.
    fn challenge_of_server(&self) -> Option<Challenge> {
        let mut known = self
            .challenge
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(challenge) = &*known {
            return challenge.clone();
        }
        // A failure is not the caller's error, whose request has been answered.
        let answer = self
            .with_retries(|| self.try_send("", &[], None, Method::Get))
            .ok()?;
        let is_own = answer.response.status() == 401 && answer.other_host.is_none();
        let challenge = is_own.then(|| challenge_of(&answer)).flatten();
        *known = Some(challenge.clone());
        challenge
    }

    /// Sends a request and retries it on transient errors (see `retry`).
    pub(super) fn with_retries(
        &self,
        send: impl Fn() -> Result<Answer, Failure>,
    ) -> Result<Answer, RegistryError> {
        let mut attempt = 1;
        loop {
            let wait = match send() {
                Ok(answer) if retry::is_transient(&answer.response) && attempt < self.attempts => {
                    match retry::pause_after(&answer.response, attempt) {
                        Some(wait) => wait,
                        None => return Ok(answer),
                    }
                }
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.problem.is_transient() && attempt < self.attempts => {
                    retry::pause(attempt)
                }
                Err(failure) => return Err(self.failed(failure)),
            };
            thread::sleep(wait);
            attempt += 1;
        }
    }

    /// Sends a request for `/v2/<path>` once.
    fn try_send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
        method: Method<'_>,
    ) -> Result<Answer, Failure> {
        let get = |scheme| {
            let endpoint = self.image.endpoint();
            let url = format!("{scheme}://{endpoint}/v2/{path}");
            let url: Uri = url.parse().map_err(|_| RegistryProblem::Protocol)?;
            self.http.send(&Request {
                url: &url,
                headers,
                authorization,
                method,
                for_loopback: self.image.is_loopback(),
                certificates: self.certificates(),
            })
        };
        let is_loopback = self.image.is_loopback();
        if !is_loopback && !self.is_insecure {
            return get("https");
        }
        if let Some(scheme) = self.scheme.get() {
            return get(scheme);
        }
        let (answer, scheme) = match is_loopback {
            true => match get("http")? {
                answer if answer.other_host.is_none() && answer.response.status() == 400 => {
                    match without_tls(answer) {
                        Ok(answer) => (answer, "http"),
                        Err(NeedsTls) => (get("https")?, "https"),
                    }
                }
                answer => (answer, "http"),
            },
            false => match get("https") {
                // A server without TLS fails in various ways.
                Err(failure)
                    if failure.other_host.is_none() && failure.problem.suggests_plain_http() =>
                {
                    (get("http")?, "http")
                }
                result => (result?, "https"),
            },
        };
        let _ = self.scheme.set(scheme);
        Ok(answer)
    }

    /// Reads a response body of at most `limit` bytes; `None` if it is truncated.
    pub(super) fn body(
        &self,
        response: Response<Body>,
        limit: u64,
        what: &str,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let is_encoded = content_encoding::is_gzip(&response);
        let read = |reader: &mut dyn Read| {
            let mut bytes = Vec::new();
            match reader.take(limit + 1).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 > limit => {
                    Err(self.error(RegistryProblem::TooLong(limit, what.to_owned())))
                }
                Ok(_) => Ok(Some(bytes)),
                Err(_) => Ok(None),
            }
        };
        match read(&mut response.into_body().into_reader())? {
            // No document begins like that; without it the header is wrong.
            Some(bytes) if is_encoded && bytes.starts_with(content_encoding::GZIP) => {
                read(&mut content_encoding::decoder(&bytes[..]))
            }
            bytes => Ok(bytes),
        }
    }

    /// The error for an unexpected response.
    pub(super) fn refusal(&self, answer: Answer) -> RegistryError {
        let is_ours = answer.other_host.is_none();
        self.refused(answer, is_ours)
    }

    /// The error for an unexpected response of the token server, which receives
    /// the same credentials as the registry.
    pub(super) fn refusal_of_token_server(&self, answer: Answer) -> RegistryError {
        self.refused(answer, true)
    }

    fn refused(&self, answer: Answer, has_credentials: bool) -> RegistryError {
        let Answer {
            response,
            other_host,
        } = answer;
        let status = response.status().as_u16();
        let wait = retry::retry_after(&response);
        let body = self.body(response, MAX_ANSWER, "an error").ok().flatten();
        let detail = body.and_then(|body| detail_of(&body));
        let code = detail.as_ref().and_then(|detail| detail.code.as_deref());
        let problem = match (status, code) {
            (401 | 403, _) if has_credentials => self.unauthorized(),
            (404, Some("NAME_UNKNOWN")) if other_host.is_none() => RegistryProblem::UnknownImage,
            (404, _) if other_host.is_none() => RegistryProblem::UnknownTag,
            _ => RegistryProblem::Status {
                status,
                detail: detail
                    .and_then(|detail| detail.message)
                    .map(|message| message.escape_debug().take(MAX_DETAIL).collect()),
                wait: wait.map(|wait| wait.as_secs()).filter(|wait| *wait > 0),
            },
        };
        RegistryError {
            other_host,
            ..self.error(problem)
        }
    }

    /// The error for a 401 or 403, depending on the known credentials.
    pub(super) fn unauthorized(&self) -> RegistryProblem {
        match &self.known {
            Lookup::Credentials(credentials) => RegistryProblem::CredentialsRejected {
                file: credentials.file.clone(),
            },
            Lookup::Helper { helper, file } => RegistryProblem::Helper {
                helper: helper.clone(),
                file: file.clone(),
            },
            Lookup::None => RegistryProblem::CredentialsRequired,
        }
    }

    fn authorization(&self) -> MutexGuard<'_, Option<String>> {
        (self.authorization.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server only supports HTTPS.
struct NeedsTls;

/// The answer to a bad request (400), unless it says that plain HTTP was sent to a server with TLS,
/// as the servers of Go, nginx and Apache do.
fn without_tls(answer: Answer) -> Result<Answer, NeedsTls> {
    let (head, body) = answer.response.into_parts();
    let mut text = Vec::new();
    // What cannot be read is not needed for the error either.
    let _ = body.into_reader().take(MAX_ANSWER).read_to_end(&mut text);
    let lower = String::from_utf8_lossy(&text).to_lowercase();
    if ["to an https server", "to https port", "to an ssl-enabled"]
        .iter()
        .any(|phrase| lower.contains(phrase))
    {
        return Err(NeedsTls);
    }
    Ok(Answer {
        response: Response::from_parts(head, Body::builder().data(text)),
        other_host: answer.other_host,
    })
}

/// The challenge in a 401; `None` if there is none that is supported.
fn challenge_of(answer: &Answer) -> Option<Challenge> {
    let values = answer.response.headers().get_all("WWW-Authenticate");
    challenge::parse(values.iter().map(|value| value.as_bytes()))
}

#[derive(Debug, Deserialize)]
struct Detail {
    code: Option<String>,
    message: Option<String>,
}

/// The first error of an error document (OCI distribution, "Error codes").
fn detail_of(body: &[u8]) -> Option<Detail> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<Detail>,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    document.errors.into_iter().next()
}
