//! Errors of registries.

use std::io;
use std::path::PathBuf;

use microagent_cas::Digest;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::image::reference::RegistryReference;

/// A registry request failed.
#[derive(Debug, thiserror::Error)]
#[error("image {image}: {}{}", self.without_image(), listed(mirrors))]
pub struct RegistryError {
    /// The reference.
    pub image: String,
    /// The registry, or the mirror.
    pub registry: String,
    /// The host that failed, if it is not the registry itself: the target of a
    /// redirect, or the token server.
    pub other_host: Option<String>,
    /// The reason.
    pub problem: Box<RegistryProblem>,
    /// The errors of the mirrors tried before.
    pub mirrors: Vec<String>,
    /// The cause, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RegistryError {
    pub(super) fn new(image: &RegistryReference, problem: RegistryProblem) -> RegistryError {
        RegistryError {
            image: image.to_string(),
            registry: image.registry.clone(),
            other_host: None,
            problem: Box::new(problem),
            mirrors: Vec::new(),
            source: None,
        }
    }

    /// The message without the image.
    pub(super) fn without_image(&self) -> String {
        let other_host = match &self.other_host {
            Some(host) => format!(" (at {host})"),
            None => String::new(),
        };
        format!("registry {}{other_host} {}", self.registry, self.problem)
    }

    pub(super) fn is_unknown_blob(&self) -> bool {
        matches!(*self.problem, RegistryProblem::UnknownBlob(_))
    }
}

/// The errors of mirrors, in parentheses.
fn listed(mirrors: &[String]) -> String {
    match mirrors {
        [] => String::new(),
        mirrors => format!(" (mirrors: {})", mirrors.join("; ")),
    }
}

/// Why a request failed. The messages continue "registry NAME".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages document the variants
pub enum RegistryProblem {
    #[error("refused the connection")]
    Refused,
    #[error("cannot be resolved")]
    UnknownHost,
    #[error("cannot be trusted: invalid TLS certificate or handshake")]
    Tls,
    #[error("requires plain HTTP, which is not allowed")]
    PlainHttp,
    #[error("timed out")]
    Timeout,
    #[error("closed the connection early")]
    Disconnected,
    #[error("cannot be reached through the proxy {proxy}: {reason}")]
    Proxy { proxy: String, reason: String },
    #[error("cannot be reached: ${name} is not a valid proxy URL")]
    ProxyVariable { name: &'static str },
    #[error("redirects in a loop")]
    RedirectLoop,
    #[error("redirects more than {0} times")]
    TooManyRedirects(usize),
    #[error("does not have this image")]
    UnknownImage,
    #[error("does not have this tag or digest")]
    UnknownTag,
    #[error("does not have blob {0}")]
    UnknownBlob(Digest),
    #[error("requires credentials")]
    CredentialsRequired,
    #[error("rejected the credentials from {}", file.display())]
    CredentialsRejected { file: PathBuf },
    #[error("requires credentials; {} delegates them to the helper {helper}, which is never run", file.display())]
    Helper { helper: String, file: PathBuf },
    #[error("returned status {status}{}{}", in_parentheses(detail), retry_delay(*wait))]
    Status {
        status: u16,
        /// The message of the server.
        detail: Option<String>,
        /// `Retry-After` in seconds.
        wait: Option<u64>,
    },
    #[error("sent more than {0} bytes for {1}")]
    TooLong(u64, String),
    #[error("does not implement the registry protocol")]
    Protocol,
    #[error("cannot be used with the certificates for it: {}: {reason}", path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error("cannot be sent {}: {reason}", path.display())]
    Blob { path: PathBuf, reason: String },
    #[error("cannot be used with the credentials file {}: {reason}", path.display())]
    AuthFile { path: PathBuf, reason: String },
}

fn in_parentheses(detail: &Option<String>) -> String {
    let detail = detail.as_ref().map(|detail| format!(" ({detail})"));
    detail.unwrap_or_default()
}

fn retry_delay(wait: Option<u64>) -> String {
    let text = wait.map(|seconds| format!("; retry after {seconds} s"));
    text.unwrap_or_default()
}

impl Diagnosis for RegistryError {
    fn kind(&self) -> ErrorKind {
        match &*self.problem {
            RegistryProblem::UnknownImage
            | RegistryProblem::UnknownTag
            | RegistryProblem::UnknownBlob(_) => ErrorKind::NotFound,
            RegistryProblem::CredentialsRequired
            | RegistryProblem::CredentialsRejected { .. }
            | RegistryProblem::Helper { .. } => ErrorKind::Unauthorized,
            RegistryProblem::TooLong(..) => ErrorKind::Corrupt,
            RegistryProblem::AuthFile { .. }
            | RegistryProblem::ProxyVariable { .. }
            | RegistryProblem::Certificates { .. } => ErrorKind::Usage,
            RegistryProblem::Timeout => ErrorKind::Timeout,
            RegistryProblem::Blob { .. } => ErrorKind::Host,
            _ => ErrorKind::Unreachable,
        }
    }

    fn remediation(&self) -> Option<String> {
        let registry = &self.registry;
        Some(match &*self.problem {
            RegistryProblem::Refused => {
                format!("check that a registry listens on {registry}")
            }
            RegistryProblem::UnknownHost => {
                "check the registry's name and the DNS configuration of this host".into()
            }
            RegistryProblem::Tls | RegistryProblem::PlainHttp => {
                "install the server's CA certificate on this host, or mark it as insecure in registries.json (docs/registries.md)"
                    .into()
            }
            RegistryProblem::Proxy { .. } => {
                format!("check the proxy, or exclude {registry} with NO_PROXY")
            }
            RegistryProblem::ProxyVariable { name } => {
                format!("set it to http://HOST:PORT, or unset {name}")
            }
            RegistryProblem::UnknownImage | RegistryProblem::UnknownTag => {
                "check the spelling; a private image may need credentials in $REGISTRY_AUTH_FILE"
                    .into()
            }
            RegistryProblem::CredentialsRequired
            | RegistryProblem::CredentialsRejected { .. }
            | RegistryProblem::Helper { .. } => format!(
                "check the image's name; if it is private, log in with `skopeo login --authfile FILE {registry}` and set REGISTRY_AUTH_FILE=FILE"
            ),
            RegistryProblem::Certificates { path, .. } => {
                format!("repair or remove {}", path.display())
            }
            RegistryProblem::AuthFile { .. } => {
                format!("create it again with `skopeo login --authfile FILE {registry}`, and set REGISTRY_AUTH_FILE=FILE")
            }
            RegistryProblem::Timeout | RegistryProblem::Disconnected | RegistryProblem::Status { .. } => {
                "try again later, or use another registry".into()
            }
            RegistryProblem::TooLong(..) | RegistryProblem::UnknownBlob(_) => {
                "the image is damaged in the registry; push it again".into()
            }
            RegistryProblem::RedirectLoop | RegistryProblem::TooManyRedirects(_) => {
                format!("check the redirects configured for {registry}")
            }
            RegistryProblem::Protocol => format!("check that {registry} is a registry"),
            RegistryProblem::Blob { .. } => return None,
        })
    }

    fn retryable(&self) -> bool {
        match &*self.problem {
            RegistryProblem::Refused
            | RegistryProblem::Timeout
            | RegistryProblem::Disconnected
            | RegistryProblem::Proxy { .. }
            | RegistryProblem::UnknownHost => true,
            RegistryProblem::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

impl RegistryProblem {
    /// Classifies an error of the HTTP client, which used `proxy`.
    pub(super) fn of(error: &ureq::Error, proxy: Option<&ureq::Proxy>) -> RegistryProblem {
        let direct = match error {
            ureq::Error::ConnectProxyFailed(reason) => {
                // "proxy server responded 403/403"
                let status = reason.rsplit(' ').next().unwrap_or(reason);
                let status = status.split('/').next().unwrap_or(status);
                let reason = match status.parse::<u16>() {
                    Ok(status) => format!("it returned status {status}"),
                    Err(_) => "it did not respond".into(),
                };
                return RegistryProblem::through(proxy, reason);
            }
            ureq::Error::Timeout(ureq::Timeout::Connect) if proxy.is_some() => {
                return RegistryProblem::through(proxy, "it timed out".into());
            }
            ureq::Error::HostNotFound => RegistryProblem::UnknownHost,
            ureq::Error::Timeout(_) => RegistryProblem::Timeout,
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                RegistryProblem::Tls
            }
            ureq::Error::Io(error) => RegistryProblem::of_io(error),
            _ => RegistryProblem::Protocol,
        };
        // With a proxy, only the proxy's name is resolved and connected to.
        match (direct, proxy) {
            (RegistryProblem::Refused, Some(_)) => {
                RegistryProblem::through(proxy, "it refused the connection".into())
            }
            // Except for SOCKS without `h`, where the client resolves the target.
            (RegistryProblem::UnknownHost, Some(used)) if !used.resolve_target() => {
                RegistryProblem::through(proxy, "its name cannot be resolved".into())
            }
            (direct, _) => direct,
        }
    }

    pub(super) fn through(proxy: Option<&ureq::Proxy>, reason: String) -> RegistryProblem {
        // Only host and port: the URL of a proxy may contain a password.
        let proxy = proxy.map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        RegistryProblem::Proxy {
            proxy: proxy.unwrap_or_default(),
            reason,
        }
    }

    fn of_io(error: &io::Error) -> RegistryProblem {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => RegistryProblem::Refused,
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => RegistryProblem::Timeout,
            // Errors of getaddrinfo(3) do not have a kind.
            _ if error.to_string().starts_with("failed to lookup address") => {
                RegistryProblem::UnknownHost
            }
            // Errors of rustls are reported as invalid data.
            io::ErrorKind::InvalidData => RegistryProblem::Tls,
            _ => RegistryProblem::Disconnected,
        }
    }

    /// Whether the request should be retried.
    pub(super) fn is_transient(&self) -> bool {
        matches!(
            self,
            RegistryProblem::Disconnected | RegistryProblem::Timeout
        )
    }

    /// Whether an HTTPS request may have failed because the server only supports
    /// plain HTTP.
    pub(super) fn suggests_plain_http(&self) -> bool {
        matches!(
            self,
            RegistryProblem::Refused
                | RegistryProblem::Tls
                | RegistryProblem::Disconnected
                | RegistryProblem::Timeout
                | RegistryProblem::Proxy { .. }
        )
    }

    /// Whether a mirror with this error is not used again: every error that does not
    /// concern a single document or layer.
    pub(super) fn disables_mirror(&self) -> bool {
        !matches!(
            self,
            RegistryProblem::UnknownImage
                | RegistryProblem::UnknownTag
                | RegistryProblem::UnknownBlob(_)
                | RegistryProblem::TooLong(..)
        )
    }
}
