//! Plain HTTP through an HTTP proxy: the proxy gets the request itself, with the whole URL in its
//! first line (absolute-form, RFC 9112 section 3.2.2), as from curl and Go. The HTTP client would
//! ask for a tunnel (`CONNECT`), which most proxies allow to port 443 only.

use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};
use ureq::{Proxy, ProxyProtocol};

/// Connects plain HTTP to the proxy, if an HTTP proxy is configured.
#[derive(Debug)]
pub(super) struct PlainProxyConnector {
    /// The configuration for the connection to the proxy itself, which uses none.
    direct: Config,
}

impl PlainProxyConnector {
    pub(super) fn new(direct: Config) -> PlainProxyConnector {
        PlainProxyConnector { direct }
    }
}

impl<In: Transport> Connector<In> for PlainProxyConnector {
    type Out = Either<In, ProxiedTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(transport) = chained {
            return Ok(Some(Either::A(transport)));
        }
        let is_http =
            |proxy: &&Proxy| matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
        let Some(proxy) = details.config.proxy().filter(is_http) else {
            return Ok(None);
        };
        if details.needs_tls() {
            return Ok(None);
        }
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: (details.resolver).resolve(proxy.uri(), &self.direct, details.timeout)?,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let connection = (details.run_connector)(&to_proxy)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(ProxiedTransport {
            buffers,
            connection: TransportAdapter::new(connection, details.current_time.clone()),
            prefix: prefix(details.uri),
            header: authorization(proxy),
        })))
    }
}

/// What precedes the path in the first line of a request: scheme and authority.
fn prefix(uri: &Uri) -> String {
    // Without user and password, which the client sends in a header.
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("http://{host}")
}

/// The header line with the proxy's credentials, or nothing.
fn authorization(proxy: &Proxy) -> String {
    let (user, password) = (proxy.username(), proxy.password());
    if user.or(password).is_none() {
        return String::new();
    }
    let pair = format!(
        "{}:{}",
        user.unwrap_or_default(),
        password.unwrap_or_default()
    );
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
}

/// A connection to a proxy.
pub(super) struct ProxiedTransport {
    buffers: LazyBuffers,
    connection: TransportAdapter,
    prefix: String,
    header: String,
}

impl std::fmt::Debug for ProxiedTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The header contains a password.
        f.debug_struct("ProxiedTransport")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Transport for ProxiedTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.connection.set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        match with_whole_url(output, &self.prefix, &self.header) {
            Some(request) => self.connection.write_all(&request)?,
            None => self.connection.write_all(output)?,
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.connection.set_timeout(timeout);
        let read = self.connection.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.connection.get_mut().is_open()
    }
}

/// The beginning of a request with the whole URL in its first line and another header line; `None`
/// for what is not the beginning of a request (forms do not begin like that).
fn with_whole_url(output: &[u8], prefix: &str, header: &str) -> Option<Vec<u8>> {
    let method = [&b"GET "[..], b"POST "]
        .into_iter()
        .find(|method| output.starts_with(method))?;
    let target = &output[method.len()..];
    let end = target.windows(2).position(|window| window == b"\r\n")? + 2;
    let (line, rest) = target.split_at(end);
    let is_request = line.starts_with(b"/") && line.ends_with(b" HTTP/1.1\r\n");
    is_request.then(|| [method, prefix.as_bytes(), line, header.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_request_has_the_whole_url() {
        let whole = |request: &str| {
            let whole = with_whole_url(request.as_bytes(), "http://reg.lan:5000", "P: x\r\n");
            whole.map(|whole| String::from_utf8(whole).unwrap())
        };
        assert_eq!(
            whole("GET /v2/?a=b HTTP/1.1\r\nHost: reg.lan:5000\r\n\r\n").as_deref(),
            Some("GET http://reg.lan:5000/v2/?a=b HTTP/1.1\r\nP: x\r\nHost: reg.lan:5000\r\n\r\n")
        );
        assert!(whole("POST /token HTTP/1.1\r\n\r\ngrant_type=x").is_some());
        for other in ["", "GET ", "grant_type=x", "GET x\r\n", "GET /x\r\n"] {
            assert_eq!(whole(other), None, "{other}");
        }
    }

    #[test]
    fn credentials_are_for_the_proxy_alone() {
        let header = |proxy| authorization(&Proxy::new(proxy).unwrap());
        assert_eq!(header("http://p:1"), "");
        // printf 'u:p w' | base64
        let expected = "Proxy-Authorization: Basic dTpwIHc=\r\n";
        assert_eq!(header("http://u:p%20w@p:1"), expected);
        let uri = "http://user:secret@[::1]:5000/v2/".parse().unwrap();
        assert_eq!(prefix(&uri), "http://[::1]:5000");
    }
}
