//! TLS connections: whom to trust, and with what to introduce ourselves.

mod certificates;
mod explanation;
mod provider;
mod verifier;

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

pub(crate) use self::certificates::{CertificateError, host_directory};
use self::certificates::{HostCertificates, system_authorities};
use self::explanation::explained;
use self::provider::provider;
use self::verifier::{NoVerification, Verifier};

/// The TLS settings for a server. `certificates` is a directory with certificates for it
/// ([`host_directory`]).
///
/// # Errors
/// When the directory cannot be used.
pub(super) fn client_config(
    is_verified: bool,
    certificates: Option<&Path>,
) -> Result<Arc<ClientConfig>, CertificateError> {
    let provider = Arc::new(provider());
    let own = match certificates {
        Some(directory) => HostCertificates::read(directory, &provider)?,
        None => HostCertificates::default(),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::of_provider(&error))?
        .dangerous();
    let builder = match is_verified {
        false => builder.with_custom_certificate_verifier(Arc::new(NoVerification(provider))),
        true => {
            let mut trusted = system_authorities();
            trusted.extend(own.authorities);
            let verifier = Verifier::new(trusted, &provider)
                .map_err(|error| CertificateError::of_provider(&error))?;
            builder.with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let config = match own.keys.is_empty() {
        true => builder.with_no_client_auth(),
        false => builder.with_client_cert_resolver(Arc::new(ClientKeys(own.keys))),
    };
    Ok(Arc::new(config))
}

/// The keys to introduce ourselves with, if a server asks.
#[derive(Debug)]
struct ClientKeys(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientKeys {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let mut keys = self.0.iter();
        keys.find(|key| key.key.choose_scheme(schemes).is_some())
            .cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Adds TLS to a connection. The HTTP client's own connector does the same, but does not take a
/// configuration with another verifier.
#[derive(Debug)]
pub(super) struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    pub(super) fn new(config: Arc<ClientConfig>) -> TlsConnector {
        TlsConnector { config }
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        // With an HTTPS proxy, the connection to the proxy comes here too, and has its own TLS.
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_owned())
            .map_err(|_| ureq::Error::Tls("the host is not a valid name"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket).map_err(explained)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(TlsTransport {
            buffers,
            stream: StreamOwned::new(connection, socket),
        })))
    }
}

/// A TLS connection.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl std::fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsTransport").finish_non_exhaustive()
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let read = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;
