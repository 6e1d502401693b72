//! What can go wrong between us and a registry.

use std::io;
use std::path::PathBuf;

use microagent_cas::Digest;

use crate::error::{Diagnosis, ErrorKind};

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("image {image}: registry {registry} {problem}")]
pub struct RegistryError {
    /// The reference.
    pub image: String,
    /// The host that was talked to.
    pub registry: String,
    /// What went wrong.
    pub problem: RegistryProblem,
    /// What it was caused by, where something lies below.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
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
    #[error("redirects to an address that is not HTTPS")]
    Insecure,
    #[error("did not answer in time")]
    Timeout,
    #[error("broke off the connection")]
    Broken,
    #[error("does not have this image")]
    UnknownImage,
    #[error("does not have this tag or digest")]
    UnknownTag,
    #[error("does not have blob {0}")]
    UnknownBlob(Digest),
    #[error("wants credentials")]
    Unauthorized,
    #[error("refused the credentials of $REGISTRY_AUTH_FILE")]
    Denied,
    #[error("answered {status}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
    Status { status: u16, detail: Option<String> },
    #[error("sent more than {0} bytes for {1}")]
    TooLong(u64, String),
    #[error("does not speak the registry protocol")]
    Protocol,
    #[error("cannot be asked with the credentials file {}: {reason}", path.display())]
    AuthFile { path: PathBuf, reason: String },
}

impl Diagnosis for RegistryError {
    fn kind(&self) -> ErrorKind {
        match &self.problem {
            RegistryProblem::UnknownImage
            | RegistryProblem::UnknownTag
            | RegistryProblem::UnknownBlob(_) => ErrorKind::NotFound,
            RegistryProblem::Unauthorized | RegistryProblem::Denied => ErrorKind::Unauthorized,
            RegistryProblem::TooLong(..) => ErrorKind::Corrupt,
            RegistryProblem::AuthFile { .. } => ErrorKind::Usage,
            RegistryProblem::Timeout => ErrorKind::Timeout,
            _ => ErrorKind::Unreachable,
        }
    }

    fn remediation(&self) -> Option<String> {
        let registry = &self.registry;
        Some(match &self.problem {
            RegistryProblem::Refused => {
                format!("check that a registry listens on {registry}")
            }
            RegistryProblem::UnknownHost => {
                "check the registry's name and this machine's DNS".into()
            }
            RegistryProblem::Tls | RegistryProblem::Insecure => {
                "install the registry's CA certificate on this machine; plain HTTP is only for loopback"
                    .into()
            }
            RegistryProblem::UnknownImage | RegistryProblem::UnknownTag => {
                "check the spelling; a private image may need credentials in $REGISTRY_AUTH_FILE"
                    .into()
            }
            RegistryProblem::Unauthorized | RegistryProblem::Denied => format!(
                "log in with `skopeo login --authfile FILE {registry}` and set REGISTRY_AUTH_FILE=FILE"
            ),
            RegistryProblem::AuthFile { .. } => {
                "make it anew with `skopeo login --authfile FILE`, or unset REGISTRY_AUTH_FILE".into()
            }
            RegistryProblem::Timeout | RegistryProblem::Broken | RegistryProblem::Status { .. } => {
                "try again later, or use another registry".into()
            }
            RegistryProblem::TooLong(..) | RegistryProblem::UnknownBlob(_) => {
                "the image is damaged in the registry: push it anew".into()
            }
            RegistryProblem::Protocol => format!("check that {registry} is a registry"),
        })
    }

    fn retryable(&self) -> bool {
        match &self.problem {
            RegistryProblem::Refused
            | RegistryProblem::Timeout
            | RegistryProblem::Broken
            | RegistryProblem::UnknownHost => true,
            RegistryProblem::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

impl RegistryProblem {
    /// Sorts what the HTTP client says.
    pub(super) fn of(error: &ureq::Error) -> RegistryProblem {
        match error {
            ureq::Error::HostNotFound => RegistryProblem::UnknownHost,
            ureq::Error::Timeout(_) => RegistryProblem::Timeout,
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                RegistryProblem::Tls
            }
            ureq::Error::RequireHttpsOnly(_) => RegistryProblem::Insecure,
            ureq::Error::Io(error) => RegistryProblem::of_io(error),
            _ => RegistryProblem::Protocol,
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
}
