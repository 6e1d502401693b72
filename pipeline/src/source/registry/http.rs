//! HTTP requests with redirects, and the rules for each host:
//!
//! - HTTPS with certificate verification, except for hosts that `registries` marks as
//!   insecure. Plain HTTP is allowed for insecure hosts, and for the loopback
//!   interface if the registry itself is on it. The same holds for redirects and
//!   token servers.
//! - `Authorization` is sent to the original server only: a redirect keeps it if
//!   scheme, host and port stay the same.
//! - A request with a body is redirected within the server only, by 307 and 308, which repeat it.
//! - A connection without progress times out; the duration of a whole transfer is
//!   not limited.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use ureq::http::{Response, Uri};
use ureq::typestate::{WithBody, WithoutBody};
use ureq::{Agent, Body, RequestBuilder, SendBody};

use super::error::RegistryProblem;
use super::registries::Registries;
use crate::image::reference::is_loopback_host;
use crate::net::proxy::InvalidProxy;
use crate::net::redirect::{MAX_REDIRECTS, join, redirection};
use crate::net::{Agents, Route};

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) url: &'a Uri,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) authorization: Option<&'a str>,
    pub(super) method: Method<'a>,
    /// Whether the registry is on the loopback interface.
    pub(super) for_loopback: bool,
    /// The directory with certificates for the registry. Like podman, its token server and its
    /// storage are accessed with the same.
    pub(super) certificates: Option<&'a Path>,
}

/// The method of a request, with its body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Method<'a> {
    Get,
    Head,
    /// POST without a body.
    Post,
    /// POST of these fields.
    PostForm(&'a [(&'a str, &'a str)]),
    Put(Content<'a>),
}

/// What is uploaded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content<'a> {
    Bytes(&'a [u8]),
    /// A file of this size.
    File(&'a Path, u64),
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
    agents: Agents,
}

/// Scheme, host and port: the scope of an `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    is_https: bool,
    /// In lower case; an IPv6 address without brackets.
    host: String,
    port: u16,
}

impl Origin {
    pub(super) fn of(url: &Uri) -> Option<Origin> {
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
            agents: Agents::from_environment(),
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
            let other_host =
                || host_of(&url).filter(|_| origin.host != home.host || origin.port != home.port);
            let failed = |problem: RegistryProblem| Failure {
                other_host: other_host(),
                ..problem.into()
            };
            if !origin.is_https && !self.may_be_plain(&origin.host, request.for_loopback) {
                return Err(failed(RegistryProblem::PlainHttp));
            }
            let route = (self.route(&origin, request.certificates))
                .map_err(|InvalidProxy(name)| failed(RegistryProblem::ProxyVariable { name }))?;
            let agent = (self.agents.agent(&route)).map_err(|error| {
                failed(RegistryProblem::Certificates {
                    path: error.path,
                    reason: error.reason,
                })
            })?;
            let authorization = request.authorization.filter(|_| is_home);
            let response = match exchange(&agent, &url, request, authorization) {
                Ok(response) if is_of_proxy(&response) && route.proxy.is_some() => {
                    let proxy = route.proxy.as_ref();
                    let reason = format!("it returned status {}", response.status().as_u16());
                    return Err(failed(RegistryProblem::through(proxy, reason)));
                }
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
            let next = match redirection(&response) {
                Some(location) => {
                    let next = join(&url, &location);
                    Some(next.ok_or_else(|| failed(RegistryProblem::Protocol))?)
                }
                None => None,
            };
            let may_follow = |next: &Uri| {
                matches!(request.method, Method::Get | Method::Head)
                    || (matches!(response.status().as_u16(), 307 | 308)
                        && Origin::of(next).as_ref() == Some(&home))
            };
            let Some(next) = next.filter(may_follow) else {
                return Ok(Answer {
                    other_host: other_host(),
                    response,
                });
            };
            visited.push(url);
            if visited.len() > MAX_REDIRECTS {
                // A server may redirect to the same URL once, for example to set a cookie.
                return Err(match visited.contains(&next) {
                    true => RegistryProblem::RedirectLoop.into(),
                    false => RegistryProblem::TooManyRedirects(MAX_REDIRECTS).into(),
                });
            }
            url = next;
        }
    }

    /// Whether plain HTTP is allowed for a host.
    fn may_be_plain(&self, host: &str, for_loopback: bool) -> bool {
        (for_loopback && is_loopback_host(host)) || self.registries.is_insecure_host(host)
    }

    fn route(&self, origin: &Origin, certificates: Option<&Path>) -> Result<Route, InvalidProxy> {
        let Origin {
            is_https,
            host,
            port,
        } = origin;
        Ok(Route {
            is_verified: !self.registries.is_insecure_host(host),
            proxy: self.agents.proxy(*is_https, host, *port)?,
            certificates: certificates.map(Path::to_owned),
        })
    }
}

/// Host and port for messages, without user and password.
pub(super) fn host_of(url: &Uri) -> Option<String> {
    let authority = url.authority()?.as_str();
    authority.rsplit('@').next().map(str::to_owned)
}

/// Whether a proxy refuses a request for plain HTTP. Some answer 401 instead of 407.
fn is_of_proxy(response: &Response<Body>) -> bool {
    response.status() == 407 || response.headers().contains_key("Proxy-Authenticate")
}

fn exchange(
    agent: &Agent,
    url: &Uri,
    request: &Request<'_>,
    authorization: Option<&str>,
) -> Result<Response<Body>, ureq::Error> {
    let headers = (request.headers.iter().copied())
        .chain(authorization.map(|value| ("Authorization", value)));
    let without_body = |request: RequestBuilder<WithoutBody>| {
        headers.clone().fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    };
    let with_body = |request: RequestBuilder<WithBody>| {
        headers.clone().fold(request, |request, (name, value)| {
            request.header(name, value)
        })
    };
    match request.method {
        Method::Get => without_body(agent.get(url)).call(),
        Method::Head => without_body(agent.head(url)).call(),
        Method::Post => with_body(agent.post(url)).send_empty(),
        Method::PostForm(form) => with_body(agent.post(url)).send_form(form.iter().copied()),
        Method::Put(Content::Bytes(bytes)) => with_body(agent.put(url)).send(bytes),
        Method::Put(Content::File(path, size)) => {
            let file = File::open(path)?.take(size);
            let length = size.to_string();
            with_body(agent.put(url))
                .header("Content-Length", length)
                .send(SendBody::from_owned_reader(file))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        fn no_url_causes_a_panic(url in "https?://[ -~]{0,30}") {
            let _ = url.parse::<Uri>().map(|url| Origin::of(&url));
        }
    }
}
