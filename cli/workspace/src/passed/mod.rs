//! What a guest takes from its host on request: proxies ([`proxy`]) and certificates of authorities
//! ([`certificates`]). Nothing of it is passed otherwise.
//!
//! A workspace records their content, because the environment of `create` is gone when it starts, and a
//! file may be.

pub mod certificates;
pub mod proxy;

use std::collections::BTreeMap;

use microagent_proto::agent::{CA_BUNDLE, CA_EXTRA, Trust};

use crate::spec::Recorded;

/// Variables by which programs find all certificates that they trust. `CURL_CA_BUNDLE` is for a curl with
/// a path of its own, `REQUESTS_CA_BUNDLE` for Python's requests and pip, which have bundles of
/// their own, `GIT_SSL_CAINFO` for git, `SSL_CERT_FILE` for OpenSSL, Go and others.
const ALL: [&str; 4] = [
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// The one for certificates beside those that a program has itself: of Node.js.
const EXTRA: &str = "NODE_EXTRA_CA_CERTS";

/// What is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// The variables of proxies.
    pub proxy: BTreeMap<String, String>,
    /// Certificates, as [`certificates::parse`] returns them.
    pub certificates: Vec<String>,
}

impl Passed {
    /// The variables of commands in a guest whose image sets `image`, as `NAME=value`. They
    /// override those of the image, and those of the user override them.
    pub fn variables(&self, image: &[String]) -> BTreeMap<String, String> {
        let mut variables = self.proxy.clone();
        if self.certificates.is_empty() {
            return variables;
        }
        let all = ALL.iter().map(|name| (*name, CA_BUNDLE));
        for (name, path) in all.chain([(EXTRA, CA_EXTRA)]) {
            // The certificates are added to the file of the image ([`trust`]).
            if value(image, name).is_none() {
                variables.insert(name.to_owned(), path.to_owned());
            }
        }
        variables
    }

    /// Records it for a workspace whose commands do not get the variables `unset`.
    pub fn record(self, recorded: &mut Recorded, unset: &[String]) {
        let mut variables = self.variables(recorded.env());
        variables.retain(|name, _| !unset.contains(name));
        recorded.variables = variables;
        recorded.ca_certs = self.certificates;
    }
}

/// What the agent is told of these certificates, if the image sets the variables `image`.
pub fn trust(certificates: &[String], image: &[String]) -> Trust {
    let named = ALL.iter().chain([&EXTRA]);
    let mut bundles: Vec<String> = named
        .filter_map(|name| value(image, name))
        .filter(|path| path.starts_with('/') && !path.contains('\0'))
        .map(str::to_owned)
        .collect();
    bundles.sort_unstable();
    bundles.dedup();
    Trust {
        certificates: certificates.to_vec(),
        bundles,
    }
}

/// The value of a variable of an image; the last one counts.
fn value<'a>(image: &'a [String], name: &str) -> Option<&'a str> {
    let mut entries = image.iter().rev().filter_map(|entry| entry.split_once('='));
    let (_, value) = entries.find(|(known, _)| *known == name)?;
    Some(value).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn nothing_is_passed_unless_it_is_asked_for() {
        let passed = Passed::default();
        assert!(passed.variables(&[]).is_empty());
        assert_eq!(trust(&[], &[]), Trust::default());
    }

    #[test]
    fn a_variable_of_the_image_keeps_its_value_and_its_file_gets_the_certificates() {
        let image = words(&[
            "SSL_CERT_FILE=/old.pem",
            "SSL_CERT_FILE=/nix/bundle.crt",
            "GIT_SSL_CAINFO=/nix/bundle.crt",
            "CURL_CA_BUNDLE=",
            "NODE_EXTRA_CA_CERTS=relative.pem",
        ]);
        let passed = Passed {
            proxy: [("http_proxy".into(), "http://proxy:1".into())].into(),
            certificates: words(&["one"]),
        };
        let variables = passed.variables(&image);
        let expected = [
            ("CURL_CA_BUNDLE", CA_BUNDLE),
            ("REQUESTS_CA_BUNDLE", CA_BUNDLE),
            ("http_proxy", "http://proxy:1"),
        ];
        let found: Vec<_> = variables.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(found, expected);
        let trust = trust(&passed.certificates, &image);
        assert_eq!(trust.bundles, ["/nix/bundle.crt"]);
        assert_eq!(trust.certificates, ["one"]);
    }
}
