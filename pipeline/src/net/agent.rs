//! HTTP clients, one for each way to reach a server, so that connections are reused.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector, SocksConnector, TcpConnector,
};
use ureq::{Agent, Proxy};

use super::plain_proxy::PlainProxyConnector;
use super::proxy::{InvalidProxy, Proxies};
use super::resolver::HostResolver;
use super::response_head::ResponseHeadConnector;
use super::tls::{CertificateError, TlsConnector, client_config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without received data.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// The connection settings for a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    /// Whether its certificate is verified.
    pub(crate) is_verified: bool,
    /// The proxy, if one is used.
    pub(crate) proxy: Option<Proxy>,
    /// The directory with certificates for the server ([`super::tls::host_directory`]).
    pub(crate) certificates: Option<PathBuf>,
}

/// The clients of a process. Redirects are not followed, and a status is not an error.
#[derive(Debug)]
pub(crate) struct Agents {
    proxies: Proxies,
    agents: Mutex<HashMap<Route, Agent>>,
}

impl Agents {
    /// Clients with the proxies and certificates of the environment.
    pub(crate) fn from_environment() -> Agents {
        Agents {
            proxies: Proxies::from_environment(),
            agents: Mutex::default(),
        }
    }

    /// The proxy for a server.
    ///
    /// # Errors
    /// When the proxy's variable is not valid.
    pub(crate) fn proxy(
        &self,
        is_https: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<Proxy>, InvalidProxy> {
        self.proxies.choose(is_https, host, port)
    }

    /// The client for a route.
    ///
    /// # Errors
    /// When the certificates for the server cannot be used.
    pub(crate) fn agent(&self, route: &Route) -> Result<Agent, CertificateError> {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(route) {
            return Ok(agent.clone());
        }
        let tls = client_config(route.is_verified, route.certificates.as_deref())?;
        let config = |proxy| {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(proxy)
                .timeout_resolve(Some(CONNECT_TIMEOUT))
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_recv_response(Some(PROGRESS_TIMEOUT))
                .timeout_per_read(Some(PROGRESS_TIMEOUT))
                .user_agent(concat!("microagent/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        // The client's own chain, but for the connectors that it has no settings for.
        let connector =
            ().chain(SocksConnector::default())
                .chain(PlainProxyConnector::new(config(None)))
                .chain(ConnectProxyConnector::default())
                .chain(TcpConnector::default())
                .chain(TlsConnector::new(tls))
                .chain(ResponseHeadConnector);
        let config = config(route.proxy.clone());
        let agent = Agent::with_parts(config, connector, HostResolver);
        agents.insert(route.clone(), agent.clone());
        Ok(agent)
    }
}
