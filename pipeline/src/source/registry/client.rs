//! Requests to one repository of a registry: authentication, retries,
//! timeouts. Everything read-only.
//!
//! - Plain HTTP is spoken to this machine alone; anything else is HTTPS from
//!   the first byte to the last redirect.
//! - `Authorization` is sent to the registry, and credentials to the token
//!   server it names (HTTPS too); a redirect never carries either.
//! - Answers 429 and 5xx and broken connections are tried again a few times,
//!   as late as `Retry-After` says.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::challenge::{self, Challenge};
use super::credentials::Basic;
use super::error::{RegistryError, RegistryProblem};
use crate::reference::RegistryReference;

/// How often a request is made at most.
const ATTEMPTS: u32 = 4;
/// The first pause between two attempts; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, whatever `Retry-After` says.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may bring nothing.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: u32 = 5;
/// The longest answer of a token server, and of an error that is looked at.
const MAX_ANSWER: u64 = 64 << 10;
/// Debian's and Fedora's bundles of trusted certificates.
const CA_BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// A client for one image's repository.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    image: RegistryReference,
    credentials: Option<Basic>,
    /// The `Authorization` that has worked.
    authorization: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(image: &RegistryReference, credentials: Option<Basic>) -> Client {
        let loopback = image.is_loopback();
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(!loopback)
            .max_redirects(MAX_REDIRECTS)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(PROGRESS_TIMEOUT))
            .timeout_per_read(Some(PROGRESS_TIMEOUT))
            .user_agent(concat!("microagent/", env!("CARGO_PKG_VERSION")));
        if loopback {
            // A proxy is another machine, where localhost is not this one.
            config = config.proxy(None);
        } else if let Some(roots) = system_roots() {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Client {
            agent: config.build().into(),
            image: image.clone(),
            credentials,
            authorization: Mutex::new(None),
        }
    }

    pub(super) fn image(&self) -> &RegistryReference {
        &self.image
    }

    /// An error about this image.
    pub(super) fn error(&self, problem: RegistryProblem) -> RegistryError {
        RegistryError {
            image: self.image.to_string(),
            registry: self.image.registry.clone(),
            problem,
            source: None,
        }
    }

    fn failed(&self, error: ureq::Error) -> RegistryError {
        let problem = RegistryProblem::of(&error);
        let says_more = matches!(
            problem,
            RegistryProblem::Tls | RegistryProblem::Broken | RegistryProblem::Protocol
        );
        RegistryError {
            source: says_more.then(|| error.into()),
            ..self.error(problem)
        }
    }

    /// GETs `/v2/<repository>/<path>` until there is an answer that is not
    /// worth another attempt: a success or a definite refusal.
    pub(super) fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Body>, RegistryError> {
        let scheme = if self.image.is_loopback() {
            "http"
        } else {
            "https"
        };
        let (endpoint, repository) = (self.image.endpoint(), &self.image.repository);
        let url = format!("{scheme}://{endpoint}/v2/{repository}/{path}");
        let mut authenticated = false;
        let mut attempt = 1;
        loop {
            let authorization = self.authorization().clone();
            let mut request = self.agent.get(&url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(value) = &authorization {
                request = request.header("Authorization", value);
            }
            match request.call() {
                Ok(response) if response.status() == 401 && !authenticated => {
                    // A token that has expired is replaced as well.
                    authenticated = true;
                    self.authenticate(&response)?;
                }
                Ok(response) if is_transient(&response) && attempt < ATTEMPTS => {
                    thread::sleep(retry_after(&response).unwrap_or(pause(attempt)));
                    attempt += 1;
                }
                Ok(response) => return Ok(response),
                Err(error) if RegistryProblem::of(&error).is_transient() && attempt < ATTEMPTS => {
                    thread::sleep(pause(attempt));
                    attempt += 1;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
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
    pub(super) fn refusal(&self, response: Response<Body>) -> RegistryError {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            errors: Vec<Detail>,
        }
        #[derive(Deserialize)]
        struct Detail {
            code: Option<String>,
            message: Option<String>,
        }
        let status = response.status().as_u16();
        let body = self.body(response, MAX_ANSWER, "an error").ok().flatten();
        let answer: Option<Answer> = body.and_then(|body| serde_json::from_slice(&body).ok());
        let detail = answer.and_then(|answer| answer.errors.into_iter().next());
        let code = detail.as_ref().and_then(|detail| detail.code.as_deref());
        let problem = match (status, code) {
            (401 | 403, _) if self.credentials.is_some() => RegistryProblem::Denied,
            (401 | 403, _) => RegistryProblem::Unauthorized,
            (404, Some("NAME_UNKNOWN")) => RegistryProblem::UnknownImage,
            (404, _) => RegistryProblem::UnknownTag,
            _ => RegistryProblem::Status {
                status,
                detail: detail
                    .and_then(|detail| detail.message)
                    .map(|message| message.escape_debug().take(200).collect()),
            },
        };
        self.error(problem)
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        (self.authorization.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets what a 401 asks for and keeps it for the requests to come.
    fn authenticate(&self, refusal: &Response<Body>) -> Result<(), RegistryError> {
        let wanted = || self.error(RegistryProblem::Unauthorized);
        let headers = refusal.headers().get_all("WWW-Authenticate");
        let challenge = headers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(challenge::parse)
            .ok_or_else(wanted)?;
        let authorization = match challenge {
            Challenge::Basic => self.credentials.as_ref().ok_or_else(wanted)?.header(),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let repository = &self.image.repository;
                let scope = scope.unwrap_or_else(|| format!("repository:{repository}:pull"));
                format!("Bearer {}", self.token(&realm, service.as_deref(), &scope)?)
            }
        };
        *self.authorization() = Some(authorization);
        Ok(())
    }

    /// A token from the server that the registry names.
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let mut request = self.agent.get(realm).query("scope", scope);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header("Authorization", credentials.header());
        }
        let response = request.call().map_err(|error| self.failed(error))?;
        if !response.status().is_success() {
            return Err(self.refusal(response));
        }
        let body = self.body(response, MAX_ANSWER, "a token")?;
        let body = body.ok_or_else(|| self.error(RegistryProblem::Broken))?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .ok_or_else(|| self.error(RegistryProblem::Protocol))
    }
}

fn is_transient(response: &Response<Body>) -> bool {
    response.status() == 429 || response.status().is_server_error()
}

/// How long the server wants us to wait, if it says so in seconds.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get("Retry-After")?.to_str().ok()?;
    let wait = Duration::from_secs(value.trim().parse().ok()?);
    Some(wait.min(LONGEST_PAUSE))
}

/// The pause after the attempt of that number, counted from 1.
pub(super) fn pause(attempt: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << attempt.saturating_sub(1).min(16))
        .min(LONGEST_PAUSE)
}

/// The certificates this machine trusts, so that a company's own registry
/// works here as it does for every other tool; `None` leaves the built-in ones.
fn system_roots() -> Option<RootCerts> {
    let configured = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let pem = (configured.into_iter())
        .chain(CA_BUNDLES.iter().map(Into::into))
        .find_map(|path| std::fs::read(path).ok())?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    (!certificates.is_empty()).then(|| RootCerts::new_with_certs(&certificates))
}
