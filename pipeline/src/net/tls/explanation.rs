//! What failed handshakes mean, for those whose error alone does not say it.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// A reason why a certificate is refused that `rustls` has no name for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("an RSA key of less than 2048 bits is not secure")]
    ShortKey,
    #[error(
        "the server's certificate is that of an authority (CA:TRUE), but not trusted as a server itself"
    )]
    Authority,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
    }
}

/// The length in bytes of the key of a 2048-bit RSA certificate with its algorithm (RFC 8017,
/// section A.1.1).
const RSA_2048: usize = 290;
/// The encoded identifier of RSA keys, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// Whether this is an RSA key that is too short. The cryptography reports its signatures as bad.
pub(super) fn is_short(key: &SubjectPublicKeyInfoDer<'_>) -> bool {
    key.len() < RSA_2048 && key.windows(RSA.len()).any(|window| window == RSA)
}

/// The error of a handshake, explained if it can be.
pub(super) fn explained(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let text = match inner {
        Some(Error::AlertReceived(
            alert @ (AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity),
        )) => format!(
            "the server supports neither TLS 1.3 nor TLS 1.2 with ECDHE and AES-GCM or \
             ChaCha20-Poly1305, or no curve or key that is supported (it sent the alert {alert:?})"
        ),
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) => {
            match other.downcast_ref::<Refusal>() {
                Some(refusal) => refusal.to_string(),
                None => return error,
            }
        }
        _ => return error,
    };
    io::Error::new(error.kind(), Explanation(text))
}

/// An error with this text alone.
#[derive(Debug)]
struct Explanation(String);

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Explanation {}
