//! Requests to one repository on one server: its scheme, its authentication,
//! attempts. Everything read-only.

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use serde::Deserialize;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::credentials::{Credentials, Known};
use super::error::{RegistryError, RegistryProblem};
use super::http::{Answer, Failure, Http, Request};
use super::retry;
use crate::image::reference::RegistryReference;

/// The longest answer of a token server, and of an error that is looked at, in bytes.
pub(super) const MAX_ANSWER: u64 = 64 << 10;
/// The longest text of a server that an error repeats, in characters.
const MAX_DETAIL: usize = 200;

/// A client for one image at its registry, or at a mirror of it.
#[derive(Debug)]
pub(super) struct Client {
    http: Arc<Http>,
    /// The image under the name it has at this server.
    image: RegistryReference,
    /// The image as it was asked for.
    asked: String,
    known: Known,
    /// Whether plain HTTP may be spoken if HTTPS is not.
    is_insecure: bool,
    /// What an insecure server has been found to speak.
    scheme: OnceLock<&'static str>,
    attempts: u32,
    /// The `Authorization` that has worked.
    authorization: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(
        http: &Arc<Http>,
        image: &RegistryReference,
        asked: &RegistryReference,
        known: Known,
        is_insecure: bool,
    ) -> Client {
        let is_mirror = image.registry != asked.registry;
        Client {
            http: Arc::clone(http),
            image: image.clone(),
            asked: asked.to_string(),
            known,
            is_insecure,
            scheme: OnceLock::new(),
            attempts: match is_mirror {
                true => retry::ATTEMPTS_AT_A_MIRROR,
                false => retry::ATTEMPTS,
            },
            authorization: Mutex::new(None),
        }
    }

    /// The image under the name it has at this server.
    pub(super) fn image(&self) -> &RegistryReference {
        &self.image
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match &self.known {
            Known::Credentials(credentials) => Some(credentials),
            Known::Nothing | Known::Helper { .. } => None,
        }
    }

    /// An error about this image at this server.
    pub(super) fn error(&self, problem: RegistryProblem) -> RegistryError {
        RegistryError {
            image: self.asked.clone(),
            registry: self.image.registry.clone(),
            elsewhere: None,
            problem: Box::new(problem),
            mirrors: Vec::new(),
            source: None,
        }
    }

    fn failed(&self, failure: Failure) -> RegistryError {
        let says_more = matches!(
            *failure.problem,
            RegistryProblem::Tls | RegistryProblem::Broken | RegistryProblem::Protocol
        );
        RegistryError {
            elsewhere: failure.elsewhere,
            source: failure.source.filter(|_| says_more).map(|error| error as _),
            ..self.error(*failure.problem)
        }
    }

    /// GETs `/v2/<repository>/<path>` until there is an answer that is not
    /// worth another attempt: a success or a definite refusal.
    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, RegistryError> {
        let mut renewed = false;
        loop {
            let authorization = self.authorization().clone();
            let answer = self.persist(|| self.try_get(path, headers, authorization.as_deref()))?;
            // Only the registry itself may ask who we are: what it redirects
            // to could name a token server of its own choice.
            if answer.response.status() != 401 || answer.elsewhere.is_some() || renewed {
                return Ok(answer);
            }
            renewed = true;
            let mut current = self.authorization();
            // Another thread may have a new token already.
            if *current == authorization {
                *current = Some(self.authorization_for(&answer)?);
            }
        }
    }

    /// Makes a request again as long as that is worth it (`retry`).
    pub(super) fn persist(
        &self,
        ask: impl Fn() -> Result<Answer, Failure>,
    ) -> Result<Answer, RegistryError> {
        let mut attempt = 1;
        loop {
            let wait = match ask() {
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

    fn try_get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Answer, Failure> {
        let get = |scheme| {
            let (endpoint, repository) = (self.image.endpoint(), &self.image.repository);
            let url = format!("{scheme}://{endpoint}/v2/{repository}/{path}");
            let url: Uri = url.parse().map_err(|_| RegistryProblem::Protocol)?;
            self.http.send(&Request {
                url: &url,
                headers,
                authorization,
                form: None,
                for_loopback: self.image.is_loopback(),
            })
        };
        if self.image.is_loopback() {
            return get("http");
        }
        if !self.is_insecure {
            return get("https");
        }
        if let Some(scheme) = self.scheme.get() {
            return get(scheme);
        }
        let (answer, scheme) = match get("https") {
            // What is no TLS server answers in many ways.
            Err(failure) if failure.elsewhere.is_none() && failure.problem.is_no_connection() => {
                (get("http")?, "http")
            }
            result => (result?, "https"),
        };
        let _ = self.scheme.set(scheme);
        Ok(answer)
    }

    /// The whole body of an answer of at most `limit` bytes; `None` when it
    /// broke off.
    pub(super) fn body(
        &self,
        response: Response<Body>,
        limit: u64,
        what: &str,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let mut bytes = Vec::new();
        let mut reader = response.into_body().into_reader().take(limit + 1);
        match reader.read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit => {
                Err(self.error(RegistryProblem::TooLong(limit, what.to_owned())))
            }
            Ok(_) => Ok(Some(bytes)),
            Err(_) => Ok(None),
        }
    }

    /// The error of an answer that is none of the expected ones.
    pub(super) fn refusal(&self, answer: Answer) -> RegistryError {
        let is_ours = answer.elsewhere.is_none();
        self.refused(answer, is_ours)
    }

    /// The same of the token server, which knows us as the registry does.
    pub(super) fn refusal_of_token_server(&self, answer: Answer) -> RegistryError {
        self.refused(answer, true)
    }

    fn refused(&self, answer: Answer, knows_us: bool) -> RegistryError {
        let Answer {
            response,
            elsewhere,
        } = answer;
        let status = response.status().as_u16();
        let wait = retry::retry_after(&response);
        let body = self.body(response, MAX_ANSWER, "an error").ok().flatten();
        let detail = body.and_then(|body| detail_of(&body));
        let code = detail.as_ref().and_then(|detail| detail.code.as_deref());
        let problem = match (status, code) {
            (401 | 403, _) if knows_us => self.unauthorized(),
            (404, Some("NAME_UNKNOWN")) if elsewhere.is_none() => RegistryProblem::UnknownImage,
            (404, _) if elsewhere.is_none() => RegistryProblem::UnknownTag,
            _ => RegistryProblem::Status {
                status,
                detail: detail
                    .and_then(|detail| detail.message)
                    .map(|message| message.escape_debug().take(MAX_DETAIL).collect()),
                wait: wait.map(|wait| wait.as_secs()).filter(|wait| *wait > 0),
            },
        };
        RegistryError {
            elsewhere,
            ..self.error(problem)
        }
    }

    /// What it means that we are not let in.
    pub(super) fn unauthorized(&self) -> RegistryProblem {
        match &self.known {
            Known::Credentials(credentials) => RegistryProblem::Denied {
                file: credentials.file.clone(),
            },
            Known::Helper { helper, file } => RegistryProblem::Helper {
                helper: helper.clone(),
                file: file.clone(),
            },
            Known::Nothing => RegistryProblem::Unauthorized,
        }
    }

    fn authorization(&self) -> MutexGuard<'_, Option<String>> {
        (self.authorization.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Deserialize)]
struct Detail {
    code: Option<String>,
    message: Option<String>,
}

/// The first error of a document of errors (OCI distribution, "Error codes").
fn detail_of(body: &[u8]) -> Option<Detail> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<Detail>,
    }
    let document: Document = serde_json::from_slice(body).ok()?;
    document.errors.into_iter().next()
}
