//! HTTP requests with redirects, and the rules for each host:
//!
//! - HTTPS with certificate verification, except for hosts that `registries` marks as
//!   insecure. Plain HTTP is allowed for insecure hosts, and for the loopback
//!   interface if the registry itself is on it. The same holds for redirects and
//!   token servers.
//! - `Authorization` is sent to the original server only: a redirect keeps it if
//!   scheme, host and port stay the same.
//! - A request with a body is never redirected.
//! - A connection without progress times out; the duration of a whole transfer is
//!   not limited.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use super::error::RegistryProblem;
use super::proxy::{InvalidProxy, Proxies};
use super::registries::Registries;
use crate::image::reference::is_loopback_host;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without received data.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 5;
/// The bundles of trusted certificates of Debian and Fedora.
const CA_BUNDLES: [&str; 2] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) url: &'a Uri,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) authorization: Option<&'a str>,
    /// Form fields of a POST; `None` for a GET.
    pub(super) form: Option<&'a [(&'a str, &'a str)]>,
    /// Whether the registry is on the loopback interface.
    pub(super) for_loopback: bool,
}

/// The final response after redirects.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// The host that sent it, if it is not that of the request.
    pub(super) other_host: Option<String>,
}

/// A request without a response.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) problem: Box<RegistryProblem>,
    /// The host that failed, if it is not that of the request.
    pub(super) other_host: Option<String>,
    pub(super) source: Option<Box<ureq::Error>>,
}

impl From<RegistryProblem> for Failure {
    fn from(problem: RegistryProblem) -> Failure {
        Failure {
            problem: Box::new(problem),
            other_host: None,
            source: None,
        }
    }
}

/// The HTTP client. Connections are reused.
#[derive(Debug)]
pub(super) struct Http {
    registries: Registries,
    proxies: Proxies,
    agents: Mutex<HashMap<Route, Agent>>,
    roots: OnceLock<Option<RootCerts>>,
}

/// The connection settings for a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Route {
    is_verified: bool,
    proxy: Option<Proxy>,
}

/// Scheme, host and port: the scope of an `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    is_https: bool,
    /// In lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Uri) -> Option<Origin> {
        let is_https = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host()?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        Some(Origin {
            is_https,
            host: bare.unwrap_or(host).to_lowercase(),
            port: url.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
        })
    }
}

impl Http {
    pub(super) fn new(registries: &Registries) -> Http {
        Http {
            registries: registries.clone(),
            proxies: Proxies::from_environment(),
            agents: Mutex::default(),
            roots: OnceLock::new(),
        }
    }

    /// Sends a request and follows redirects.
    ///
    /// # Errors
    /// If a server cannot be reached or is not allowed by the rules of this module.
    pub(super) fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        let home = Origin::of(request.url).ok_or(RegistryProblem::Protocol)?;
        let mut visited: Vec<Uri> = Vec::new();
        let mut url = request.url.clone();
        loop {
            let origin = Origin::of(&url).ok_or(RegistryProblem::Protocol)?;
            let is_home = origin == home;
            let other_host = || {
                let authority = url.authority().map(ToString::to_string);
                authority.filter(|_| origin.host != home.host || origin.port != home.port)
            };
            let failed = |problem: RegistryProblem| Failure {
                other_host: other_host(),
                ..problem.into()
            };
            if !origin.is_https && !self.may_be_plain(&origin.host, request.for_loopback) {
                return Err(failed(RegistryProblem::PlainHttp));
            }
            let route = (self.route(&origin))
                .map_err(|InvalidProxy(name)| failed(RegistryProblem::ProxyVariable { name }))?;
            let authorization = request.authorization.filter(|_| is_home);
            let response = match self.exchange(&route, &url, request, authorization) {
                Ok(response) => response,
                Err(error) => {
                    let proxy = route.proxy.as_ref();
                    let problem = RegistryProblem::of(&error, proxy);
                    return Err(Failure {
                        source: Some(Box::new(error)),
                        ..failed(problem)
                    });
                }
            };
            let next = match request.form {
                None => redirection(&response),
                Some(_) => None,
            };
            let Some(location) = next else {
                return Ok(Answer {
                    other_host: other_host(),
                    response,
                });
            };
            let next = join(&url, location).ok_or_else(|| failed(RegistryProblem::Protocol))?;
            visited.push(url.clone());
            if visited.contains(&next) {
                return Err(RegistryProblem::RedirectLoop.into());
            }
            if visited.len() > MAX_REDIRECTS {
                return Err(RegistryProblem::TooManyRedirects(MAX_REDIRECTS).into());
            }
            url = next;
        }
    }

    /// Whether plain HTTP is allowed for a host.
    fn may_be_plain(&self, host: &str, for_loopback: bool) -> bool {
        (for_loopback && is_loopback_host(host)) || self.registries.is_insecure_host(host)
    }

    fn route(&self, origin: &Origin) -> Result<Route, InvalidProxy> {
        let Origin {
            is_https,
            host,
            port,
        } = origin;
        Ok(Route {
            is_verified: !self.registries.is_insecure_host(host),
            proxy: self.proxies.choose(*is_https, host, *port)?,
        })
    }

    fn exchange(
        &self,
        route: &Route,
        url: &Uri,
        request: &Request<'_>,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, ureq::Error> {
        let agent = self.agent(route);
        let headers = (request.headers.iter().copied())
            .chain(authorization.map(|value| ("Authorization", value)));
        match request.form {
            None => headers
                .fold(agent.get(url), |request, (name, value)| {
                    request.header(name, value)
                })
                .call(),
            Some(form) => headers
                .fold(agent.post(url), |request, (name, value)| {
                    request.header(name, value)
                })
                .send_form(form.iter().copied()),
        }
    }

    fn agent(&self, route: &Route) -> Agent {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(route) {
            return agent.clone();
        }
        let mut tls = TlsConfig::builder().disable_verification(!route.is_verified);
        if let Some(roots) = self.roots.get_or_init(system_roots) {
            tls = tls.root_certs(roots.clone());
        }
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(route.proxy.clone())
            .tls_config(tls.build())
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(PROGRESS_TIMEOUT))
            .timeout_per_read(Some(PROGRESS_TIMEOUT))
            .user_agent(concat!("microagent/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        agents.insert(route.clone(), agent.clone());
        agent
    }
}

/// The target of a redirect.
fn redirection(response: &Response<Body>) -> Option<&str> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get("Location")?.to_str().ok(),
        _ => None,
    }
}

/// Resolves a `Location` relative to `base` (RFC 9110, section 10.2.2).
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or(location).trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_scheme = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_absolute = (location.split_once("://")).is_some_and(|(scheme, _)| is_scheme(scheme));
    let whole = if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base
            .path()
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    whole.parse().ok()
}

/// The certificates that this host trusts, so that a registry with a private CA works
/// as for other tools; `None` if there are none, for the built-in ones.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_location_is_resolved_relative_to_its_base() {
        let base: Uri = "https://reg.example:5000/v2/a/blobs/x?y=1".parse().unwrap();
        let joined = |location| join(&base, location).map(|url| url.to_string());
        for (location, expected) in [
            ("http://s.example/b?c=d#e", "http://s.example/b?c=d"),
            ("//s.example/b", "https://s.example/b"),
            ("/v2/b", "https://reg.example:5000/v2/b"),
            ("/v2/b?to=a://c", "https://reg.example:5000/v2/b?to=a://c"),
            ("z", "https://reg.example:5000/v2/a/blobs/z"),
        ] {
            assert_eq!(joined(location).as_deref(), Some(expected));
        }
        assert_eq!(joined("http://a b/"), None);
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap());
        assert_eq!(
            origin("https://A.example/x"),
            origin("https://a.example:443/y")
        );
        assert_ne!(origin("https://a.example/"), origin("http://a.example/"));
        assert_ne!(
            origin("https://a.example/"),
            origin("https://a.example:444/")
        );
        assert_ne!(
            origin("https://a.example/"),
            origin("https://a.example.org/")
        );
        assert_eq!(origin("http://[::1]:80/").unwrap().host, "::1");
        assert_eq!(origin("ftp://a.example/"), None);
    }

    #[test]
    fn plain_http_is_allowed_only_for_a_registry_on_loopback() {
        let http = Http::new(&Registries::default());
        assert!(http.may_be_plain("127.0.0.1", true));
        // A remote registry must not redirect requests to local services.
        assert!(!http.may_be_plain("127.0.0.1", false));
        assert!(!http.may_be_plain("10.0.0.1", true));
        assert!(!http.may_be_plain("reg.example", false));
    }

    proptest! {
        #[test]
        fn no_location_causes_a_panic(location in "[ -~]{0,40}") {
            let base: Uri = "https://reg.example/v2/".parse().unwrap();
            let _ = join(&base, &location).as_ref().map(Origin::of);
        }
    }
}
