//! Selects the proxy of a request from `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
//! `NO_PROXY`, in upper or lower case.
//!
//! The HTTP client's own implementation uses one of them for all schemes and matches
//! `NO_PROXY` by complete names only. This one follows Docker, skopeo and podman (Go's
//! `httpproxy`), with curl's `ALL_PROXY`:
//! - `HTTPS_PROXY` applies to `https:`, `HTTP_PROXY` to `http:`; `ALL_PROXY` applies if
//!   the specific one is not set.
//! - Requests to this host never use a proxy: on the proxy, `localhost` is another host.
//! - `NO_PROXY` lists names (`example.com` and its subdomains), `.example.com` or
//!   `*.example.com` (only subdomains), addresses, networks (`10.0.0.0/8`), each with
//!   an optional `:port`, or `*`.

use std::ffi::OsString;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::image::reference::is_loopback_host;

/// The configured proxies.
#[derive(Clone, Default)]
pub(crate) struct Proxies {
    https: Option<Setting>,
    http: Option<Setting>,
    all: Option<Setting>,
    direct: Vec<String>,
}

/// A proxy variable and its value.
#[derive(Clone, PartialEq, Eq)]
struct Setting {
    variable: &'static str,
    value: OsString,
}

/// A variable without a valid proxy URL. The value is omitted, because it may contain
/// a password.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidProxy(pub(crate) &'static str);

impl Proxies {
    /// Reads the environment.
    pub(crate) fn from_environment() -> Proxies {
        Proxies::from(std::env::var_os)
    }

    fn from(variable: impl Fn(&'static str) -> Option<OsString>) -> Proxies {
        let get = |upper: &'static str, lower: &'static str| {
            [upper, lower].into_iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.is_empty())?;
                Some(Setting {
                    variable: name,
                    value,
                })
            })
        };
        let direct = get("NO_PROXY", "no_proxy").map(|setting| setting.value);
        let direct = direct.map(|value| value.to_string_lossy().to_lowercase());
        Proxies {
            https: get("HTTPS_PROXY", "https_proxy"),
            http: get("HTTP_PROXY", "http_proxy"),
            all: get("ALL_PROXY", "all_proxy"),
            direct: (direct.iter())
                .flat_map(|list| list.split([',', ' ']))
                .filter(|entry| !entry.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Returns the proxy for a host (an IPv6 address without brackets) and port.
    ///
    /// # Errors
    /// If the applicable variable is not a valid proxy URL.
    pub(crate) fn choose(
        &self,
        is_https: bool,
        host: &str,
        port: u16,
    ) -> Result<Option<ureq::Proxy>, InvalidProxy> {
        let specific = if is_https { &self.https } else { &self.http };
        let Some(setting) = specific.as_ref().or(self.all.as_ref()) else {
            return Ok(None);
        };
        let host = host.to_lowercase();
        let is_direct = |entry: &String| is_direct(entry, &host, port);
        if is_loopback_host(&host) || self.direct.iter().any(is_direct) {
            return Ok(None);
        }
        let url = setting
            .value
            .to_str()
            .ok_or(InvalidProxy(setting.variable))?;
        match ureq::Proxy::new(url) {
            Ok(proxy) => Ok(Some(proxy)),
            Err(_) => Err(InvalidProxy(setting.variable)),
        }
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxies(…)")
    }
}

/// Whether an entry of `NO_PROXY` matches this host and port.
fn is_direct(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    if entry.contains('/') {
        let network = entry.parse::<IpNet>();
        return (network.ok().zip(address)).is_some_and(|(net, address)| net.contains(&address));
    }
    let (name, wanted) = split_port(entry);
    if wanted.is_some_and(|wanted| wanted.parse() != Ok(port)) {
        return false;
    }
    if let Ok(named) = name.parse::<IpAddr>() {
        return address == Some(named);
    }
    let name = name.strip_prefix('*').unwrap_or(name);
    match name.strip_prefix('.') {
        Some(parent) => is_below(host, parent),
        None => host == name || is_below(host, name),
    }
}

fn is_below(host: &str, parent: &str) -> bool {
    let child = host.strip_suffix(parent);
    !parent.is_empty() && child.is_some_and(|child| child.ends_with('.'))
}

/// Splits `host:port` or `[v6]:port`, where the port is optional. An IPv6 address
/// without brackets has no port.
fn split_port(entry: &str) -> (&str, Option<&str>) {
    if let Some(rest) = entry.strip_prefix('[') {
        let (address, after) = rest.split_once(']').unwrap_or((rest, ""));
        return (address, after.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn proxies(variables: &[(&'static str, &str)]) -> Proxies {
        Proxies::from(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        })
    }

    fn chosen(variables: &[(&'static str, &str)], https: bool, host: &str) -> Option<String> {
        let proxy = proxies(variables).choose(https, host, 443).unwrap();
        proxy.map(|proxy| proxy.host().to_owned())
    }

    #[test]
    fn all_proxy_applies_if_the_proxy_of_the_scheme_is_not_set() {
        let both = [("HTTPS_PROXY", "http://s:1"), ("http_proxy", "p:2")];
        assert_eq!(chosen(&both, true, "a.example").as_deref(), Some("s"));
        assert_eq!(chosen(&both, false, "a.example").as_deref(), Some("p"));
        let all = [("all_proxy", "socks5h://x:3"), ("HTTP_PROXY", "p")];
        assert_eq!(chosen(&all, true, "a.example").as_deref(), Some("x"));
        assert_eq!(chosen(&all, false, "a.example").as_deref(), Some("p"));
        let only_http = [("HTTP_PROXY", "p")];
        assert_eq!(chosen(&only_http, true, "a.example"), None);
        let empty = [("HTTPS_PROXY", ""), ("https_proxy", "low")];
        assert_eq!(chosen(&empty, true, "a.example").as_deref(), Some("low"));
    }

    #[test]
    fn loopback_hosts_never_use_a_proxy() {
        let all = [("ALL_PROXY", "http://p:1")];
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.3.4.5", "::1"] {
            assert_eq!(chosen(&all, true, host), None, "{host}");
        }
        assert!(chosen(&all, true, "localhost.example").is_some());
    }

    #[test]
    fn no_proxy_lists_names_addresses_networks_and_ports() {
        let direct = |list: &str, host: &str| {
            let variables = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", list)];
            chosen(&variables, true, host).is_none()
        };
        for (list, host) in [
            ("*", "any.example"),
            ("lan.example", "lan.example"),
            ("lan.example", "Reg.LAN.example"),
            ("x,LAN.example ,y", "reg.lan.example"),
            (".lan.example", "reg.lan.example"),
            ("*.lan.example", "a.reg.lan.example"),
            ("lan.example:443", "reg.lan.example"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3:443", "10.1.2.3"),
            ("10.0.0.0/8", "10.250.1.1"),
            ("10.1.2.3/32", "10.1.2.3"),
            ("0.0.0.0/0", "8.8.8.8"),
            ("fd00::/8", "fd12::1"),
            ("fd12::1", "fd12::1"),
            ("[fd12::1]:443", "fd12::1"),
        ] {
            assert!(direct(list, host), "{list} {host}");
        }
        for (list, host) in [
            ("", "a.example"),
            (".", "a.example"),
            ("lan.example", "notlan.example"),
            ("lan.example", "lan.example.org"),
            (".lan.example", "lan.example"),
            ("lan.example:5000", "lan.example"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.0.0.0/33", "10.0.0.1"),
            ("10.0.0.0/x", "10.0.0.1"),
            ("10.0.0.0/8", "10.example"),
            ("::/0", "10.0.0.1"),
        ] {
            assert!(!direct(list, host), "{list} {host}");
        }
    }

    #[test]
    fn the_error_for_an_invalid_proxy_names_the_variable_but_not_its_value() {
        let broken = proxies(&[("HTTPS_PROXY", "ftp://user:secret@p")]);
        let error = broken.choose(true, "a.example", 443).unwrap_err();
        assert_eq!(error, InvalidProxy("HTTPS_PROXY"));
        // An invalid variable that does not apply is ignored.
        assert!(broken.choose(false, "a.example", 80).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_list_causes_a_panic(list in "[ -~]{0,40}", host in "[0-9a-f.:]{1,20}") {
            let _ = proxies(&[("ALL_PROXY", "p"), ("NO_PROXY", &list)]).choose(true, &host, 1);
        }
    }
}
