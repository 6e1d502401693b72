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

/// The encoded identifier of RSA keys, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// Whether this is an RSA key of less than 2048 bits. The cryptography reports its signatures as
/// bad.
pub(super) fn is_short(key: &SubjectPublicKeyInfoDer<'_>) -> bool {
    rsa_bits(key).is_some_and(|bits| bits < 2048)
}

/// The size of an RSA key in bits (RFC 8017, section A.1.1, in RFC 5280, section 4.1.2.7).
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let (key, _) = element(key, 0x30)?;
    let (algorithm, key) = element(key, 0x30)?;
    let (bits, _) = element(key, 3)?;
    let (numbers, _) = element(bits.strip_prefix(&[0])?, 0x30)?;
    let (modulus, _) = element(numbers, 2)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let modulus = &modulus[first..];
    let bits = modulus.len() * 8 - usize::try_from(modulus[0].leading_zeros()).ok()?;
    algorithm.starts_with(RSA).then_some(bits)
}

/// The content of the DER element of this type that begins `bytes`, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes.strip_prefix(&[tag])? {
        [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A key with this modulus, and the exponent 3.
    fn key(modulus: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let numbers = element(0x30, &[element(2, modulus), vec![2, 1, 3]].concat());
        let algorithm = [&[0x30, 13], RSA, &[5, 0]].concat();
        let bits = element(3, &[&[0], &numbers[..]].concat());
        element(0x30, &[algorithm, bits].concat())
    }

    #[test]
    fn the_size_of_a_key_is_that_of_its_modulus() {
        let bits = |first: &[u8], bytes: usize| rsa_bits(&key(&[first, &vec![1; bytes]].concat()));
        assert_eq!(bits(&[0, 0x80], 255), Some(2048));
        assert_eq!(bits(&[0x7f], 255), Some(2047));
        assert_eq!(bits(&[0, 0xff], 127), Some(1024));
        assert_eq!(bits(&[0], 0), None);
        assert_eq!(rsa_bits(b""), None);
    }

    proptest! {
        #[test]
        fn no_key_causes_a_panic(at in 0usize..60, byte: u8, length in 0usize..60) {
            let mut key = key(&[0x7f; 20]);
            key[at.min(47)] = byte;
            let _ = rsa_bits(&key[..length.min(key.len())]);
            let _ = rsa_bits(&key);
        }
    }
}
