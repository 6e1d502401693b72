//! Verifies the certificate of a server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, VerifierBuilderError};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::explanation::{Refusal, is_short};

/// The verification of `rustls`, and two rules of Go and OpenSSL beside it:
///
/// - A certificate that is itself in the trust store is trusted, whoever issued it and whatever else
///   it may be used for. `openssl req -x509` makes certificates that are authorities (`CA:TRUE`), and
///   servers present them.
/// - A certificate for any purpose (RFC 5280, section 4.2.1.12) may be used for a server.
#[derive(Debug)]
pub(super) struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    trusted: Vec<CertificateDer<'static>>,
}

/// The purpose anyExtendedKeyUsage, 2.5.29.37.0.
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0];

impl Verifier {
    /// Trusts these certificates, or those that Mozilla trusts if there are none.
    pub(super) fn new(
        trusted: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, VerifierBuilderError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let roots = Arc::new(roots);
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        Ok(Verifier {
            inner: inner.build()?,
            roots,
            algorithms: provider.signature_verification_algorithms,
            trusted,
        })
    }

    /// Whether the certificate is for any purpose, and valid otherwise.
    fn is_for_any_purpose(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> bool {
        let Ok(certificate) = webpki::EndEntityCert::try_from(end_entity) else {
            return false;
        };
        let purpose = webpki::KeyUsage::required_if_present(ANY_PURPOSE);
        let verified = certificate.verify_for_usage(
            self.algorithms.all,
            &self.roots.roots,
            intermediates,
            now,
            purpose,
            None,
            None,
        );
        verified.is_ok()
            && certificate
                .verify_is_valid_for_subject_name(server_name)
                .is_ok()
    }

    /// A signature that is not valid because a key is not secure.
    fn explained(&self, error: Error, certificates: &[&CertificateDer<'_>]) -> Error {
        let bad = Error::InvalidCertificate(CertificateError::BadSignature);
        let trusted = self.trusted.iter();
        match error == bad
            && certificates
                .iter()
                .copied()
                .chain(trusted)
                .any(has_short_key)
        {
            true => Refusal::ShortKey.into(),
            false => error,
        }
    }
}

fn has_short_key(certificate: &CertificateDer<'_>) -> bool {
    let parsed = ParsedCertificate::try_from(certificate);
    parsed.is_ok_and(|parsed| is_short(&parsed.subject_public_key_info()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let Err(error) = verified else {
            return verified;
        };
        // All of them are found after its period of validity was checked. The signature is not that
        // of another trusted certificate with the same name, such as its predecessor.
        let is_of_issuer = match &error {
            Error::InvalidCertificate(error) => match error {
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => true,
                CertificateError::Other(other) => is_authority(other),
                _ => false,
            },
            _ => false,
        };
        if is_of_issuer && self.trusted.iter().any(|trusted| trusted == end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return match has_short_key(end_entity) {
                true => Err(Refusal::ShortKey.into()),
                false => Ok(ServerCertVerified::assertion()),
            };
        }
        match &error {
            Error::InvalidCertificate(CertificateError::Other(other)) if is_authority(other) => {
                Err(Refusal::Authority.into())
            }
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. })
                if self.is_for_any_purpose(end_entity, intermediates, server_name, now) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            _ => {
                let chain: Vec<_> = [end_entity].into_iter().chain(intermediates).collect();
                Err(self.explained(error, &chain))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signature)
            .map_err(|error| self.explained(error, &[certificate]))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signature)
            .map_err(|error| self.explained(error, &[certificate]))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Whether the error is that an authority's certificate is used for a server. `rustls` has no name
/// for it.
fn is_authority(error: &OtherError) -> bool {
    matches!(
        error.0.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

/// Accepts any certificate with any key: for a server that is marked as insecure. The handshake's
/// signature is not verified either, as it would only show that the server has the key of a
/// certificate that could be anybody's; so servers with keys that are not supported are reached.
#[derive(Debug)]
pub(super) struct NoVerification(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
