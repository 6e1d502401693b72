//! Authentication after a 401: Basic, or a token from the server that the registry
//! names.
//!
//! | credentials | token request |
//! |---|---|
//! | none | `GET realm?service=…&scope=…` (`distribution`'s token protocol) |
//! | user and password | the same with `account=USER` and Basic authentication |
//! | an identity token | `POST realm` with `grant_type=refresh_token` (its OAuth2 form) |
//!
//! A token is used for all requests until the registry rejects it: tokens expire
//! within minutes, and large layers take longer.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserializer;
use ureq::http::Uri;

use super::challenge::Challenge;
use super::client::Client;
use super::credentials::Secret;
use super::error::{RegistryError, RegistryProblem};
use super::http::{Answer, Method, Request, host_of};
use crate::image::go_json::{self, Decode, Fields};
use crate::net::redirect::encoded;

/// Maximum length in bytes of the response of a token server, as in skopeo: some tokens list all
/// that a user may do.
const MAX_ANSWER: u64 = 1 << 20;
/// The OAuth2 client id.
const CLIENT_ID: &str = "microagent";

/// The characters to percent-encode in a query: all but the unreserved ones of RFC 3986 and those
/// in scopes, which some servers compare without decoding.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'/')
    .remove(b',');

impl Client {
    /// Returns the `Authorization` that a challenge asks for.
    pub(super) fn authorization_for(&self, challenge: &Challenge) -> Result<String, RegistryError> {
        match challenge {
            Challenge::Bearer {
                realm,
                service,
                scopes,
            } => {
                let token = self.token(realm, service.as_deref(), scopes.clone())?;
                Ok(format!("Bearer {token}"))
            }
            Challenge::Basic => (self.credentials())
                .and_then(|credentials| credentials.basic())
                .ok_or_else(|| self.error(self.unauthorized())),
        }
    }

    /// Requests a token from the server that the registry names.
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        mut scopes: Vec<String>,
    ) -> Result<String, RegistryError> {
        if scopes.is_empty() {
            scopes.push(format!("repository:{}:pull", self.image().repository));
        }
        let mut answer = match self.credentials() {
            Some(credentials) => match &credentials.secret {
                Secret::IdentityToken { token, .. } => {
                    let scopes = scopes.join(" ");
                    self.ask_token_server(
                        &url(realm, &[]).ok_or_else(|| self.error(RegistryProblem::Protocol))?,
                        Method::PostForm(&[
                            ("grant_type", "refresh_token"),
                            ("client_id", CLIENT_ID),
                            ("service", service.unwrap_or_default()),
                            ("scope", &scopes),
                            ("refresh_token", token),
                        ]),
                        None,
                    )?
                }
                Secret::Password(_) => {
                    let user = Some(credentials.user.as_str()).filter(|user| !user.is_empty());
                    let url = self.token_url(realm, user, service, &scopes)?;
                    self.ask_token_server(&url, Method::Get, credentials.basic().as_deref())?
                }
            },
            None => {
                let url = self.token_url(realm, None, service, &scopes)?;
                self.ask_token_server(&url, Method::Get, None)?
            }
        };
        if !answer.response.status().is_success() {
            return Err(self.refusal_of_token_server(answer));
        }
        let other_host = answer.other_host.take();
        let body = self.body(answer.response, MAX_ANSWER, "a token")?;
        let body = body.ok_or_else(|| self.error(RegistryProblem::Disconnected))?;
        token_in(&body).ok_or_else(|| RegistryError {
            other_host,
            ..self.error(RegistryProblem::Protocol)
        })
    }

    fn token_url(
        &self,
        realm: &str,
        account: Option<&str>,
        service: Option<&str>,
        scopes: &[String],
    ) -> Result<Uri, RegistryError> {
        let account = account.map(|account| ("account", account));
        let service = service.map(|service| ("service", service));
        let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
        let query: Vec<_> = (account.into_iter()).chain(service).chain(scopes).collect();
        url(realm, &query).ok_or_else(|| self.error(RegistryProblem::Protocol))
    }

    fn ask_token_server(
        &self,
        url: &Uri,
        method: Method<'_>,
        authorization: Option<&str>,
    ) -> Result<Answer, RegistryError> {
        let host = host_of(url);
        let mut answer = self
            .with_retries(|| {
                self.http().send(&Request {
                    url,
                    headers: &[],
                    authorization,
                    method,
                    for_loopback: self.image().is_loopback(),
                    certificates: self.certificates(),
                })
            })
            .map_err(|error| RegistryError {
                other_host: error.other_host.or_else(|| host.clone()),
                ..error
            })?;
        answer.other_host = answer.other_host.or(host);
        Ok(answer)
    }
}

/// Appends query fields to `realm`, which may already have a query.
fn url(realm: &str, query: &[(&str, &str)]) -> Option<Uri> {
    let realm = encoded(realm.split('#').next().unwrap_or(realm).as_bytes());
    let mut separator = if realm.contains('?') { '&' } else { '?' };
    let mut text = realm.into_owned();
    for (name, value) in query {
        text.push(separator);
        text.push_str(name);
        text.push('=');
        text.extend(utf8_percent_encode(value, ENCODED));
        separator = '&';
    }
    let url: Uri = text.parse().ok()?;
    url.authority().is_some().then_some(url)
}

/// The response of a token server, read as Docker and skopeo do; its period of validity is not
/// used.
#[derive(Default)]
struct TokenDocument {
    token: String,
    access_token: String,
}

impl Fields for TokenDocument {
    const NAMES: &'static [&'static str] = &["token", "access_token"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "token" => self.token.decode(input),
            _ => self.access_token.decode(input),
        }
    }
}

/// The token in a response: `token`, or `access_token` as in OAuth2.
fn token_in(body: &[u8]) -> Option<String> {
    let document: TokenDocument = go_json::from_slice(body).ok()?;
    // It must be valid in a header.
    let is_valid = |byte: u8| byte.is_ascii_graphic();
    [document.token, document.access_token]
        .into_iter()
        .filter(|token| !token.is_empty())
        .find(|token| token.bytes().all(is_valid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn query_fields_are_appended_to_those_of_the_realm() {
        let query = [("service", "a b&c"), ("scope", "repository:x/y:pull,push")];
        let text = |realm| url(realm, &query).map(|url| url.to_string());
        assert_eq!(
            text("https://a.example/t").as_deref(),
            Some("https://a.example/t?service=a%20b%26c&scope=repository:x/y:pull,push")
        );
        assert_eq!(
            text("https://a.example/t?x=1").as_deref(),
            Some("https://a.example/t?x=1&service=a%20b%26c&scope=repository:x/y:pull,push")
        );
        assert_eq!(
            text("https://a.example/t?x=a b#f").as_deref(),
            Some("https://a.example/t?x=a%20b&service=a%20b%26c&scope=repository:x/y:pull,push")
        );
        assert_eq!(text("/token"), None);
        assert_eq!(text(""), None);
    }

    #[test]
    fn a_token_has_one_of_two_names_and_is_valid_in_a_header() {
        let read = |text: &str| token_in(text.as_bytes());
        assert_eq!(read(r#"{"token":"t"}"#).as_deref(), Some("t"));
        assert_eq!(read(r#"{"access_token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(
            read(r#"{"token":"","access_token":"a"}"#).as_deref(),
            Some("a")
        );
        assert_eq!(read(r#"{"token":"a\r\nb: c"}"#), None);
        for other in [
            r#"{"Token":"t"}"#,
            r#"{"ACCESS_TOKEN":"t","token":null}"#,
            r#"{"token":"x","token":"t"}"#,
            r#"{"token":"t","expires_in":"300","issued_at":"","scope":[1]}"#,
            r#"{"token":"t","access_token":"x","expires_in":-1.5}"#,
        ] {
            assert_eq!(read(other).as_deref(), Some("t"), "{other}");
        }
        assert_eq!(read(r#"{"token":5,"access_token":"t"}"#), None);
        assert_eq!(read("{}"), None);
        assert_eq!(read("null"), None);
        assert_eq!(read("<html>"), None);
    }

    proptest! {
        #[test]
        fn no_realm_causes_a_panic(realm in "\\PC{0,30}", scope in "\\PC{0,30}") {
            let _ = url(&realm, &[("scope", &scope)]);
        }
    }
}
