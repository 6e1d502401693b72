//! What can go wrong between us and a registry.

use std::io;
use std::path::PathBuf;

use microagent_cas::Digest;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::image::reference::RegistryReference;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("image {image}: {}{}", self.without_image(), listed(mirrors))]
pub struct RegistryError {
    /// The reference.
    pub image: String,
    /// The registry that was asked, or the mirror.
    pub registry: String,
    /// Who it was that failed, if not the registry itself: what it redirected
    /// to, or its token server.
    pub elsewhere: Option<String>,
    /// What went wrong.
    pub problem: Box<RegistryProblem>,
    /// What the mirrors said that were asked before, each a phrase.
    pub mirrors: Vec<String>,
    /// What it was caused by, where something lies below.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RegistryError {
    pub(super) fn new(image: &RegistryReference, problem: RegistryProblem) -> RegistryError {
        RegistryError {
            image: image.to_string(),
            registry: image.registry.clone(),
            elsewhere: None,
            problem: Box::new(problem),
            mirrors: Vec::new(),
            source: None,
        }
    }

    /// The message without the image that was asked for.
    pub(super) fn without_image(&self) -> String {
        let elsewhere = match &self.elsewhere {
            Some(host) => format!(" (at {host})"),
            None => String::new(),
        };
        format!("registry {}{elsewhere} {}", self.registry, self.problem)
    }

    pub(super) fn is_unknown_blob(&self) -> bool {
        matches!(*self.problem, RegistryProblem::UnknownBlob(_))
    }
}

/// What mirrors said, in parentheses.
fn listed(mirrors: &[String]) -> String {
    match mirrors {
        [] => String::new(),
        mirrors => format!(" (mirrors: {})", mirrors.join("; ")),
    }
}

/// What went wrong; reads on from "registry NAME".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the message of each says it
pub enum RegistryProblem {
    #[error("refused the connection")]
    Refused,
    #[error("is unknown: its name does not resolve")]
    UnknownHost,
    #[error("cannot be trusted: its TLS certificate or handshake is bad")]
    Tls,
    #[error("would have to be asked over plain HTTP")]
    Plain,
    #[error("did not answer in time")]
    Timeout,
    #[error("broke off the connection")]
    Broken,
    #[error("cannot be reached through the proxy {proxy}: {reason}")]
    Proxy { proxy: String, reason: String },
    #[error("cannot be asked: ${name} does not name a proxy")]
    ProxyVariable { name: &'static str },
    #[error("redirects in a circle")]
    Circle,
    #[error("redirects more than {0} times")]
    TooManyRedirects(usize),
    #[error("does not have this image")]
    UnknownImage,
    #[error("does not have this tag or digest")]
    UnknownTag,
    #[error("does not have blob {0}")]
    UnknownBlob(Digest),
    #[error("wants credentials")]
    Unauthorized,
    #[error("refused the credentials of {}", file.display())]
    Denied { file: PathBuf },
    #[error("wants credentials, and {} leaves them to the helper {helper}, which is never run", file.display())]
    Helper { helper: String, file: PathBuf },
    #[error("answered {status}{}{}", in_parentheses(detail), patience(*wait))]
    Status {
        status: u16,
        /// In the server's words.
        detail: Option<String>,
        /// How many seconds it wants to be left alone.
        wait: Option<u64>,
    },
    #[error("sent more than {0} bytes for {1}")]
    TooLong(u64, String),
    #[error("does not speak the registry protocol")]
    Protocol,
    #[error("cannot be asked with the credentials file {}: {reason}", path.display())]
    AuthFile { path: PathBuf, reason: String },
}

fn in_parentheses(detail: &Option<String>) -> String {
    let detail = detail.as_ref().map(|detail| format!(" ({detail})"));
    detail.unwrap_or_default()
}

fn patience(wait: Option<u64>) -> String {
    let text = wait.map(|seconds| format!(" and wants to be left alone for {seconds} s"));
    text.unwrap_or_default()
}

impl Diagnosis for RegistryError {
    fn kind(&self) -> ErrorKind {
        match &*self.problem {
            RegistryProblem::UnknownImage
            | RegistryProblem::UnknownTag
            | RegistryProblem::UnknownBlob(_) => ErrorKind::NotFound,
            RegistryProblem::Unauthorized
            | RegistryProblem::Denied { .. }
            | RegistryProblem::Helper { .. } => ErrorKind::Unauthorized,
            RegistryProblem::TooLong(..) => ErrorKind::Corrupt,
            RegistryProblem::AuthFile { .. } | RegistryProblem::ProxyVariable { .. } => {
                ErrorKind::Usage
            }
            RegistryProblem::Timeout => ErrorKind::Timeout,
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
                "check the registry's name and this machine's DNS".into()
            }
            RegistryProblem::Tls | RegistryProblem::Plain => {
                "install the server's CA certificate on this machine, or call it insecure in registries.json (docs/registries.md)"
                    .into()
            }
            RegistryProblem::Proxy { .. } => {
                format!("check the proxy, or leave {registry} out with NO_PROXY")
            }
            RegistryProblem::ProxyVariable { name } => {
                format!("set it to http://HOST:PORT, or unset {name}")
            }
            RegistryProblem::UnknownImage | RegistryProblem::UnknownTag => {
                "check the spelling; a private image may need credentials in $REGISTRY_AUTH_FILE"
                    .into()
            }
            RegistryProblem::Unauthorized
            | RegistryProblem::Denied { .. }
            | RegistryProblem::Helper { .. } => format!(
                "check the image's name; if it is private, log in with `skopeo login --authfile FILE {registry}` and set REGISTRY_AUTH_FILE=FILE"
            ),
            RegistryProblem::AuthFile { .. } => {
                "make it anew with `skopeo login --authfile FILE`, and set REGISTRY_AUTH_FILE=FILE".into()
            }
            RegistryProblem::Timeout | RegistryProblem::Broken | RegistryProblem::Status { .. } => {
                "try again later, or use another registry".into()
            }
            RegistryProblem::TooLong(..) | RegistryProblem::UnknownBlob(_) => {
                "the image is damaged in the registry: push it anew".into()
            }
            RegistryProblem::Circle | RegistryProblem::TooManyRedirects(_) => {
                format!("check what {registry} is set up to redirect to")
            }
            RegistryProblem::Protocol => format!("check that {registry} is a registry"),
        })
    }

    fn retryable(&self) -> bool {
        match &*self.problem {
            RegistryProblem::Refused
            | RegistryProblem::Timeout
            | RegistryProblem::Broken
            | RegistryProblem::Proxy { .. }
            | RegistryProblem::UnknownHost => true,
            RegistryProblem::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

impl RegistryProblem {
    /// Sorts what the HTTP client says, which spoke through `proxy`.
    pub(super) fn of(error: &ureq::Error, proxy: Option<&ureq::Proxy>) -> RegistryProblem {
        let direct = match error {
            ureq::Error::ConnectProxyFailed(reason) => {
                // "proxy server responded 403/403"
                let status = reason.rsplit(' ').next().unwrap_or(reason);
                let status = status.split('/').next().unwrap_or(status);
                let reason = match status.parse::<u16>() {
                    Ok(status) => format!("it answered {status}"),
                    Err(_) => "it did not answer".into(),
                };
                return RegistryProblem::through(proxy, reason);
            }
            ureq::Error::Timeout(ureq::Timeout::Connect) if proxy.is_some() => {
                return RegistryProblem::through(proxy, "it did not answer in time".into());
            }
            ureq::Error::HostNotFound => RegistryProblem::UnknownHost,
            ureq::Error::Timeout(_) => RegistryProblem::Timeout,
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                RegistryProblem::Tls
            }
            ureq::Error::Io(error) => RegistryProblem::of_io(error),
            _ => RegistryProblem::Protocol,
        };
        // Through a proxy, it alone is looked up and connected to.
        match (direct, proxy) {
            (RegistryProblem::Refused, Some(_)) => {
                RegistryProblem::through(proxy, "it refused the connection".into())
            }
            // Unless the proxy wants addresses, as SOCKS 5 without an `h` does.
            (RegistryProblem::UnknownHost, Some(asked)) if !asked.resolve_target() => {
                RegistryProblem::through(proxy, "its name does not resolve".into())
            }
            (direct, _) => direct,
        }
    }

    fn through(proxy: Option<&ureq::Proxy>, reason: String) -> RegistryProblem {
        // Host and port alone: a proxy's address may hold a password.
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
            // What getaddrinfo(3) reports has no kind of its own.
            _ if error.to_string().starts_with("failed to lookup address") => {
                RegistryProblem::UnknownHost
            }
            // What rustls reports comes through as invalid data.
            io::ErrorKind::InvalidData => RegistryProblem::Tls,
            _ => RegistryProblem::Broken,
        }
    }

    /// Whether the same request is worth another try at once.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, RegistryProblem::Broken | RegistryProblem::Timeout)
    }

    /// Whether HTTPS may have failed because plain HTTP is spoken there.
    pub(super) fn is_no_connection(&self) -> bool {
        matches!(
            self,
            RegistryProblem::Refused
                | RegistryProblem::Tls
                | RegistryProblem::Broken
                | RegistryProblem::Timeout
                | RegistryProblem::Proxy { .. }
        )
    }

    /// Whether a server that said this is not worth asking for anything else:
    /// all but what is about one document or layer.
    pub(super) fn is_lasting(&self) -> bool {
        !matches!(
            self,
            RegistryProblem::UnknownImage
                | RegistryProblem::UnknownTag
                | RegistryProblem::UnknownBlob(_)
                | RegistryProblem::TooLong(..)
        )
    }
}
