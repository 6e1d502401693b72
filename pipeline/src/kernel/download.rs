//! Downloads a kernel from a URL and verifies its digest. Proxies, certificates and timeouts are
//! those of registries ([`crate::net`]).

use std::io::Read;
use std::os::unix::fs::FileExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use microagent_cas::{Digest, Hasher, Scratch, StoreError};
use percent_encoding::percent_decode_str;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::MAX_KERNEL;
use super::error::{KernelError, KernelFailure};
use crate::engine::Engine;
use crate::engine::progress::{Event, Stage};
use crate::net::redirect::{MAX_REDIRECTS, join, redirection};
use crate::net::tls::host_directory;
use crate::net::{Agents, Route};

/// Where a kernel is downloaded from. User and password of the URL are sent to its server and are
/// neither stored nor shown.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// The URL without user and password.
    pub(crate) url: String,
    authorization: Option<String>,
}

impl Address {
    /// Parses an `http:` or `https:` URL with a host.
    ///
    /// # Errors
    /// [`KernelError::BadUrl`]
    pub(crate) fn parse(text: &str) -> Result<Address, KernelError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (user, host) = match rest[..end].rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, &rest[..end]),
        };
        let url = match scheme {
            "" => format!("{host}{}", &rest[end..]),
            scheme => format!("{scheme}://{host}{}", &rest[end..]),
        };
        let is_http = ["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known));
        if !is_http || host.is_empty() || url.parse::<Uri>().is_err() {
            return Err(KernelError::BadUrl {
                url: url.chars().take(200).collect(),
            });
        }
        let authorization = user.map(|user| {
            let decoded: Vec<u8> = percent_decode_str(user).collect();
            let colon: &[u8] = if user.contains(':') { b"" } else { b":" };
            format!("Basic {}", STANDARD.encode([&decoded, colon].concat()))
        });
        Ok(Address { url, authorization })
    }

    /// Sends the request and follows redirects. User and password are sent to the URL's own server
    /// only.
    fn get(&self) -> Result<Response<Body>, KernelError> {
        let failed = |detail: String| KernelError::Transfer {
            url: self.url.clone(),
            detail,
        };
        let home: Uri = (self.url.parse()).map_err(|_| failed("invalid URL".into()))?;
        let agents = Agents::from_environment();
        let mut url = home.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_https = url.scheme_str() == Some("https");
            let authority = url.authority().map_or("", |authority| authority.as_str());
            let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
            let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
            let proxy = agents.proxy(is_https, &host.to_lowercase(), port);
            let route = Route {
                is_verified: true,
                proxy: proxy
                    .map_err(|error| failed(format!("${} is not a valid proxy URL", error.0)))?,
                certificates: host_directory(authority),
            };
            let agent = agents
                .agent(&route)
                .map_err(|error| failed(error.to_string()))?;
            let is_home = (url.scheme(), url.authority()) == (home.scheme(), home.authority());
            let authorization = self.authorization.as_ref().filter(|_| is_home);
            let mut request = agent.get(&url);
            if let Some(value) = authorization {
                request = request.header("Authorization", value);
            }
            let response = request.call().map_err(|error| failed(error.to_string()))?;
            let Some(location) = redirection(&response) else {
                return match response.status().as_u16() {
                    200 => Ok(response),
                    status => Err(KernelError::Status {
                        url: self.url.clone(),
                        status,
                    }),
                };
            };
            url = join(&url, &location).ok_or_else(|| failed("invalid redirect".into()))?;
        }
        Err(failed(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// Downloads a kernel into a scratch file and verifies its digest.
pub(crate) fn download(
    engine: &Engine,
    address: &Address,
    expected: &Digest,
) -> Result<Scratch, KernelFailure> {
    let scratch = engine.store().scratch()?;
    let url = address.url.as_str();
    let transfer = |detail: String| KernelError::Transfer {
        url: url.to_owned(),
        detail,
    };
    let mut response = address.get()?;
    let total = response.body().content_length();
    let too_large = || KernelError::TooLarge {
        name: url.to_owned(),
        limit: MAX_KERNEL,
    };
    if total.is_some_and(|total| total > MAX_KERNEL) {
        return Err(too_large().into());
    }
    let detail = url.to_owned();
    engine.emit(Event::StageStarted {
        stage: Stage::Kernel,
        detail: detail.clone(),
        total_bytes: total,
    });
    let mut body = response.body_mut().as_reader();
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    loop {
        let count = body
            .read(&mut buffer)
            .map_err(|error| transfer(error.to_string()))?;
        if count == 0 {
            break;
        }
        let chunk = &buffer[..count];
        let written = scratch.file().write_all_at(chunk, size);
        written.map_err(|error| StoreError::io("write to", scratch.path(), error))?;
        hasher.update(chunk);
        size += count as u64;
        if size > MAX_KERNEL {
            return Err(too_large().into());
        }
        let detail = detail.clone();
        engine.emit(Event::Advanced {
            stage: Stage::Kernel,
            detail,
            bytes: count as u64,
        });
    }
    if let Some(total) = total
        && total != size
    {
        return Err(transfer(format!("the transfer ended after {size} of {total} bytes")).into());
    }
    let actual = hasher.finish();
    if actual != *expected {
        let name = url.to_owned();
        return Err(KernelError::WrongDigest {
            name,
            expected: *expected,
            actual,
        }
        .into());
    }
    engine.emit(Event::StageDone {
        stage: Stage::Kernel,
        detail,
    });
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_are_accepted() {
        for good in [
            "http://127.0.0.1:8/x",
            "HTTPS://example.org/vmlinux",
            "http://[::1]/x?a@b",
        ] {
            assert_eq!(Address::parse(good).unwrap().url, good);
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "ftp://x/y",
            "http://",
            "https:///x",
            "http://u:p@/x",
            "/boot/vmlinuz",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_sent_but_not_shown() {
        let address = Address::parse("https://u:se%40cret@a.example:1/x@y").unwrap();
        assert_eq!(address.url, "https://a.example:1/x@y");
        // printf 'u:se@cret' | base64
        assert_eq!(address.authorization.as_deref(), Some("Basic dTpzZUBjcmV0"));
        let token = Address::parse("https://token@a.example/x").unwrap();
        // printf 'token:' | base64
        assert_eq!(token.authorization.as_deref(), Some("Basic dG9rZW46"));
        for bad in [
            "ftp://u:secret@a.example/x",
            "u:secret@a.example/x",
            "http://u:secret@/x",
        ] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
