//! Proxies for the programs in a guest: the variables that most of them read.
//!
//! They have no standard. Programs read the names in lower case, in upper case, or both, so a guest gets
//! both. The value of a proxy is a URL; programs that read `host:port` without a scheme, as curl does, are
//! common enough for variables of the host to be taken so.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// The proxy that means: the variables of this host.
pub const HOST: &str = "host";

/// The variables with proxies.
const PROXIES: [&str; 4] = ["all_proxy", "ftp_proxy", "http_proxy", "https_proxy"];

/// The one with names and addresses that are reached without one.
const EXCEPTIONS: &str = "no_proxy";

/// The schemes of proxies, and their ports.
const SCHEMES: [(&str, u16); 6] = [
    ("http", 80),
    ("https", 443),
    ("socks4", 1080),
    ("socks4a", 1080),
    ("socks5", 1080),
    ("socks5h", 1080),
];

/// A proxy that cannot be passed to a guest. Messages have neither user names nor passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It is not the URL of a proxy.
    #[error("the proxy{} is not a URL with a host", of(variable))]
    Invalid {
        /// The variable that names it, if it is one of the host.
        variable: Option<String>,
    },
    /// It listens on the loopback interface.
    #[error(
        "the proxy {address}{} is on this host's loopback interface, which guests do not reach",
        of(variable)
    )]
    Loopback {
        /// The variable that names it, if it is one of the host.
        variable: Option<String>,
        /// Its host and port.
        address: String,
    },
}

fn of(variable: &Option<String>) -> String {
    (variable.as_ref()).map_or_else(String::new, |name| format!(" of {name}"))
}

impl ProxyError {
    /// What the user can do about it.
    pub fn remediation(&self) -> String {
        match self {
            ProxyError::Invalid { .. } => {
                "use --proxy http://HOST:PORT, or --proxy host for what the variables of this host say"
                    .to_owned()
            }
            ProxyError::Loopback { address, .. } => format!(
                "let it listen on another address of this host and use that one, or pass it on over \
                 vsock with --mediation PORT={address}"
            ),
        }
    }
}

/// The variables of a guest whose HTTP and HTTPS go through the proxy at `url`.
///
/// # Errors
/// [`ProxyError`].
pub fn of_url(url: &str) -> Result<BTreeMap<String, String>, ProxyError> {
    if !url.contains("://") {
        return Err(ProxyError::Invalid { variable: None });
    }
    check(None, url)?;
    let names = ["http_proxy", "https_proxy"];
    let both = names
        .iter()
        .flat_map(|name| [(*name).to_owned(), name.to_ascii_uppercase()]);
    Ok(both.map(|name| (name, url.to_owned())).collect())
}

/// The variables of a guest with the proxies of a host whose variables `get` returns. One that is set in
/// lower or upper case only gets the same value in the other; one that is empty counts as unset.
///
/// # Errors
/// Those of `get`, and [`ProxyError`].
pub fn of_host<E: From<ProxyError>>(
    get: impl Fn(&str) -> Result<Option<String>, E>,
) -> Result<BTreeMap<String, String>, E> {
    let mut variables = BTreeMap::new();
    for lower in PROXIES.into_iter().chain([EXCEPTIONS]) {
        let upper = lower.to_ascii_uppercase();
        let get = |name: &str| Ok::<_, E>(get(name)?.filter(|value| !value.is_empty()));
        let (of_lower, of_upper) = (get(lower)?, get(&upper)?);
        let set = [(lower, of_lower.as_ref()), (&*upper, of_upper.as_ref())];
        for (name, value) in set {
            if let Some(value) = value.filter(|_| lower != EXCEPTIONS) {
                check(Some(name), value)?;
            }
            if let Some(value) = value.or_else(|| set.iter().find_map(|(_, value)| *value)) {
                variables.insert(name.to_owned(), value.clone());
            }
        }
    }
    Ok(variables)
}

fn check(variable: Option<&str>, url: &str) -> Result<(), ProxyError> {
    let variable = variable.map(str::to_owned);
    let Some((host, port)) = server(url) else {
        return Err(ProxyError::Invalid { variable });
    };
    if !is_loopback(host) {
        return Ok(());
    }
    let address = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    Err(ProxyError::Loopback { variable, address })
}

/// The host, without brackets, and the port of a proxy.
fn server(url: &str) -> Option<(&str, u16)> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return None;
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let known = |(known, _): &&(&str, u16)| known.eq_ignore_ascii_case(scheme);
    let (_, default) = SCHEMES.iter().find(known)?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let server = authority.rsplit_once('@').map_or(authority, |(_, it)| it);
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (
                host,
                after
                    .strip_prefix(':')
                    .or(Some(after).filter(|it| it.is_empty()))?,
            )
        }
        None => server.split_once(':').unwrap_or((server, "")),
    };
    let port = match port {
        "" => *default,
        port => port.parse().ok().filter(|&port| port > 0)?,
    };
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(is_name)).then_some((host, port))
}

/// Whether it is an address of the loopback interface, also where none in particular is given, and in
/// the forms that only some programs accept.
fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    match name.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_unspecified(),
        Ok(IpAddr::V6(address)) => {
            let mapped = address.to_ipv4_mapped().is_some_and(|it| it.is_loopback());
            address.is_loopback() || address.is_unspecified() || mapped
        }
        Err(_) => name == "localhost" || name.ends_with(".localhost") || name.starts_with("127."),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(variables: &[(&str, &str)]) -> Result<BTreeMap<String, String>, ProxyError> {
        of_host(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    fn shown(variables: &BTreeMap<String, String>) -> Vec<String> {
        (variables.iter())
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    #[test]
    fn both_cases_are_set() {
        let url = "http://u:p@proxy.example:3128";
        assert_eq!(
            shown(&of_url(url).unwrap()),
            ["HTTPS_PROXY", "HTTP_PROXY", "http_proxy", "https_proxy"]
                .map(|name| format!("{name}={url}"))
        );
        let found = host(&[
            ("https_proxy", "proxy:1"),
            ("HTTP_PROXY", "http://upper:1"),
            ("http_proxy", "http://lower:1"),
            ("ALL_PROXY", ""),
            ("NO_PROXY", "localhost,127.0.0.1"),
            ("PROXY", "x"),
        ]);
        assert_eq!(
            shown(&found.unwrap()),
            [
                "HTTPS_PROXY=proxy:1",
                "HTTP_PROXY=http://upper:1",
                "NO_PROXY=localhost,127.0.0.1",
                "http_proxy=http://lower:1",
                "https_proxy=proxy:1",
                "no_proxy=localhost,127.0.0.1",
            ]
        );
        assert!(host(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for url in [
            "",
            "proxy:3128",
            "host",
            "ftp://proxy",
            "http://",
            "http://u:secret@",
            "http://u:secret@proxy:0",
            "http://u:secret@proxy:x",
            "http://u:se/cret@proxy:1",
            "http://[::1",
            "http://[x]:1",
            "http://[::1]x",
            "http://a b:1",
            "http://proxy:1\n",
        ] {
            let error = of_url(url).unwrap_err();
            assert_eq!(
                error.to_string(),
                "the proxy is not a URL with a host",
                "{url}"
            );
        }
        let error = host(&[("HTTP_PROXY", "ftp://u:secret@proxy")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the proxy of HTTP_PROXY is not a URL with a host"
        );
    }

    #[test]
    fn the_loopback_is_recognised() {
        for (url, address) in [
            ("http://u:secret@localhost:3128", "localhost:3128"),
            ("http://LOCALHOST.", "LOCALHOST.:80"),
            ("https://a.localhost/", "a.localhost:443"),
            ("http://127.0.0.1:1", "127.0.0.1:1"),
            ("http://127.1:1", "127.1:1"),
            ("socks5h://[::1]", "[::1]:1080"),
            ("http://[::ffff:127.0.0.2]:1", "[::ffff:127.0.0.2]:1"),
            ("http://0.0.0.0:1", "0.0.0.0:1"),
        ] {
            let expected = ProxyError::Loopback {
                variable: None,
                address: address.into(),
            };
            assert_eq!(of_url(url), Err(expected), "{url}");
        }
        for url in [
            "http://proxy.example:3128",
            "socks5://10.0.0.1",
            "http://[2001:db8::1]:3128/",
            "http://localhost.example",
        ] {
            assert!(of_url(url).is_ok(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_urls_do_not_panic(url in "(http://)?[\\[\\]:@/a-z0-9.%]{0,20}") {
            let _ = of_url(&url);
            let _ = host(&[("http_proxy", &url)]);
        }
    }
}
