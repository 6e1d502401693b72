//! `$REGISTRY_AUTH_FILE`: user and password by registry (containers-auth.json(5)).

use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::reference::{DOCKER_HUB, RegistryReference};

/// The variable that names the file.
pub(super) const VARIABLE: &str = "REGISTRY_AUTH_FILE";
/// The longest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// User and password, joined and encoded as HTTP's Basic scheme has them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Basic(String);

impl std::fmt::Debug for Basic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Basic(…)")
    }
}

impl Basic {
    /// The value of an `Authorization` header.
    pub(super) fn header(&self) -> String {
        format!("Basic {}", self.0)
    }
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
}

/// Reads the credentials for an image from a file. The error is a reason.
pub(super) fn read(path: &Path, image: &RegistryReference) -> Result<Option<Basic>, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.len() > MAX_FILE {
        return Err("it is too long".into());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    find(&bytes, image)
}

/// The entry whose key is the longest prefix of the image's name. Keys are
/// `registry[/namespace…]`; Docker's old form with `https://` and a path is
/// known for the registry alone.
fn find(file: &[u8], image: &RegistryReference) -> Result<Option<Basic>, String> {
    let file: AuthFile = serde_json::from_slice(file).map_err(|error| error.to_string())?;
    let name = image.name();
    let mut key = name.as_str();
    loop {
        if let Some(auth) = file.auths.get(key) {
            return decode(auth, key);
        }
        match key.rsplit_once('/') {
            Some((shorter, _)) => key = shorter,
            None => break,
        }
    }
    let old = file.auths.iter().find(|(key, _)| {
        let host = (key
            .trim_start_matches("https://")
            .trim_start_matches("http://"))
        .split('/')
        .next();
        let is_old = key.contains("://");
        let host = match host {
            Some("index.docker.io") => Some(DOCKER_HUB),
            host => host,
        };
        is_old && host == Some(&image.registry)
    });
    old.map_or(Ok(None), |(key, auth)| decode(auth, key))
}

fn decode(auth: &Auth, key: &str) -> Result<Option<Basic>, String> {
    let Some(text) = auth.auth.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let decoded = STANDARD.decode(text.trim());
    match decoded.map(|bytes| bytes.contains(&b':')) {
        Ok(true) => Ok(Some(Basic(text.trim().to_owned()))),
        _ => Err(format!("the entry of {key} is not user:password in base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> RegistryReference {
        match text.parse() {
            Ok(crate::Reference::Registry(reference)) => reference,
            other => panic!("{other:?}"),
        }
    }

    fn user(file: &str, of: &str) -> Option<String> {
        let found = find(file.as_bytes(), &image(of)).unwrap()?;
        let decoded = STANDARD.decode(found.0).unwrap();
        Some(String::from_utf8(decoded).unwrap())
    }

    #[test]
    fn the_longest_prefix_wins() {
        let file = r#"{"auths":{"q.io":{"auth":"YTox"},"q.io/x":{"auth":"YjoxCg=="},"q.io/x/y":{"auth":"Yzox"}}}"#;
        assert_eq!(user(file, "q.io/x/y").as_deref(), Some("c:1"));
        assert_eq!(user(file, "q.io/x/z").as_deref(), Some("b:1\n"));
        assert_eq!(user(file, "q.io/xx/z").as_deref(), Some("a:1"));
        assert_eq!(user(file, "other.io/x"), None);
        assert_eq!(user("{}", "q.io/x"), None);
    }

    #[test]
    fn docker_hub_is_known_by_its_old_name() {
        let file = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTox"}}}"#;
        assert_eq!(user(file, "busybox").as_deref(), Some("a:1"));
        assert_eq!(user(file, "index.example/x"), None);
    }

    #[test]
    fn a_broken_file_is_an_error_and_an_empty_entry_is_none() {
        assert!(find(b"{", &image("a.b/c")).is_err());
        assert!(find(br#"{"auths":{"a.b":{"auth":"%"}}}"#, &image("a.b/c")).is_err());
        assert!(find(br#"{"auths":{"a.b":{"auth":"YQ=="}}}"#, &image("a.b/c")).is_err());
        assert_eq!(user(r#"{"auths":{"a.b":{}}}"#, "a.b/c"), None);
    }
}
