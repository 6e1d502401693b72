//! Registry credentials from the files that `docker login`, `podman login` and
//! `skopeo login` write (containers-auth.json(5)), read as skopeo reads them.
//!
//! If `$REGISTRY_AUTH_FILE` is set, only that file is read, and it must exist. Otherwise the files
//! are those of `search_path`; the first one with an entry for the image is used, missing files are
//! ignored, and an unusable file is an error only if no other file has an entry. Entries for other
//! registries are not looked at.
//!
//! A file may refer to a credential helper, which is a program. Helpers are never
//! run; the name is kept for the error message.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::RegistryProblem;
use crate::image::go_json::{self, Decode, Fields};
use crate::image::reference::{DOCKER_HUB, RegistryReference};

/// The variable with the path of the file.
const VARIABLE: &str = "REGISTRY_AUTH_FILE";
/// Base64 as Go decodes it, which ignores the bits of the last character that are not in use.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    PAD.with_decode_allow_trailing_bits(true),
);
/// Maximum length of a file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The credentials for a registry, and the file they are from.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) secret: Secret,
    pub(super) file: PathBuf,
}

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// `user:password` in base64, as in HTTP's Basic scheme.
    Password(String),
    /// A refresh token of the registry's token server, and the password beside it, in the form of
    /// `Password`: the token is not for registries without a token server.
    IdentityToken {
        token: String,
        password: Option<String>,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.file.display())
    }
}

impl Credentials {
    /// The value of an `Authorization` header, for a user with a password.
    pub(super) fn basic(&self) -> Option<String> {
        let joined = match &self.secret {
            Secret::Password(joined) => Some(joined),
            Secret::IdentityToken { password, .. } => password.as_ref(),
        };
        joined.map(|joined| format!("Basic {joined}"))
    }
}

/// The result of a lookup in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    None,
    Credentials(Credentials),
    /// No credentials, but a reference to this helper.
    Helper {
        helper: String,
        file: PathBuf,
    },
}

/// The files, each with its content or the reason why it cannot be used.
#[derive(Debug)]
pub(super) struct Keyring {
    files: Vec<(PathBuf, Result<AuthFile, String>)>,
}

#[derive(Debug, Default)]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, Entry>,
    creds_store: Entry,
}

impl Fields for AuthFile {
    const NAMES: &'static [&'static str] = &["auths", "credHelpers", "credsStore"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "auths" => self.auths.decode(input),
            "credHelpers" => self.cred_helpers.decode(input),
            _ => self.creds_store.decode(input),
        }
    }
}

/// A value that is decoded only if it is for the image's registry.
#[derive(Default)]
struct Entry(Value);

impl Decode for Entry {
    fn decode<'de, D: Deserializer<'de>>(&mut self, input: D) -> Result<(), D::Error> {
        self.0 = Value::deserialize(input)?;
        Ok(())
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)")
    }
}

/// The entry of a registry.
#[derive(Default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

impl Fields for Auth {
    const NAMES: &'static [&'static str] = &["auth", "username", "password", "identitytoken"];

    fn field<'de, D: Deserializer<'de>>(&mut self, name: &str, input: D) -> Result<(), D::Error> {
        match name {
            "auth" => self.auth.decode(input),
            "username" => self.username.decode(input),
            "password" => self.password.decode(input),
            _ => self.identitytoken.decode(input),
        }
    }
}

/// The paths of the files.
#[derive(Debug, PartialEq, Eq)]
enum SearchPath {
    Explicit(PathBuf),
    Default(Vec<Place>),
}

/// The path of a file.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    /// Whether it is in the format of `~/.dockercfg`: the entries alone.
    is_legacy: bool,
}

/// The files in their order, as in containers-auth.json(5): `podman login` writes the first one,
/// and the one in `/run` where there is no `$XDG_RUNTIME_DIR`, as for root and in services.
fn search_path(variable: impl Fn(&str) -> Option<OsString>, user: u32) -> SearchPath {
    let get = |name| variable(name).filter(|value| !value.is_empty());
    let in_home = |path| get("HOME").map(|home| Path::new(&home).join(path));
    if let Some(path) = get(VARIABLE) {
        return SearchPath::Explicit(path.into());
    }
    let runtime = match get("XDG_RUNTIME_DIR") {
        Some(dir) => Path::new(&dir).join("containers/auth.json"),
        None => format!("/run/containers/{user}/auth.json").into(),
    };
    let config = get("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| in_home(".config"));
    let config = config.map(|dir| dir.join("containers/auth.json"));
    let docker = get("DOCKER_CONFIG").map(PathBuf::from);
    let docker = docker.or_else(|| in_home(".docker"));
    let docker = docker.map(|dir| dir.join("config.json"));
    let current = [Some(runtime), config, docker].into_iter().flatten();
    let current = current.map(|path| (path, false));
    let legacy = in_home(".dockercfg").map(|path| (path, true));
    SearchPath::Default(
        current
            .chain(legacy)
            .map(|(path, is_legacy)| Place { path, is_legacy })
            .collect(),
    )
}

impl Keyring {
    /// Reads the files selected by this process's environment.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] if the explicitly configured file does not exist.
    pub(super) fn from_environment() -> Result<Keyring, RegistryProblem> {
        let user = rustix::process::getuid().as_raw();
        Keyring::read(search_path(|name| std::env::var_os(name), user))
    }

    fn read(places: SearchPath) -> Result<Keyring, RegistryProblem> {
        let (places, must_exist) = match places {
            SearchPath::Explicit(path) => {
                let is_legacy = false;
                (vec![Place { path, is_legacy }], true)
            }
            SearchPath::Default(places) => (places, false),
        };
        let mut files = Vec::new();
        for Place { path, is_legacy } in places {
            match read(&path) {
                Ok(bytes) => files.push((path, parse(&bytes, is_legacy))),
                Err(error) if is_absent(&error) && must_exist => {
                    let reason = error.to_string();
                    return Err(RegistryProblem::AuthFile { path, reason });
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => files.push((path, Err(error.to_string()))),
            }
        }
        Ok(Keyring { files })
    }

    /// A keyring of one file; `None` if it is invalid.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Keyring> {
        let file = parse(bytes, false).ok()?;
        Some(Keyring {
            files: vec![(PathBuf::new(), Ok(file))],
        })
    }

    /// Looks up the credentials for `image` at its registry.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] if there are none and a file or the image's entry in it is
    /// invalid.
    pub(super) fn find(&self, image: &RegistryReference) -> Result<Lookup, RegistryProblem> {
        let mut helper = Lookup::None;
        let mut problem = None;
        for (path, file) in &self.files {
            let found = match file {
                Ok(file) => file.credentials(path, image),
                Err(reason) => Err(reason.clone()),
            };
            match found {
                Ok(Some(credentials)) => return Ok(Lookup::Credentials(credentials)),
                Ok(None) => {}
                Err(reason) => {
                    let path = path.clone();
                    problem.get_or_insert(RegistryProblem::AuthFile { path, reason });
                }
            }
            let name = file.as_ref().ok().and_then(|file| file.helper(image));
            if let (Lookup::None, Some(name)) = (&helper, name) {
                helper = Lookup::Helper {
                    helper: name.escape_debug().take(64).collect(),
                    file: path.clone(),
                };
            }
        }
        problem.map_or(Ok(helper), Err)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(io::Error::other("file too long")),
        false => Ok(bytes),
    }
}

/// Parses a file; an empty one has no entries.
fn parse(bytes: &[u8], is_legacy: bool) -> Result<AuthFile, String> {
    if bytes.trim_ascii().is_empty() {
        return Ok(AuthFile::default());
    }
    let parsed = match is_legacy {
        true => go_json::from_slice(bytes).map(|auths| AuthFile {
            auths,
            ..AuthFile::default()
        }),
        false => go_json::from_slice(bytes),
    };
    parsed.map_err(|error| error.to_string())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl AuthFile {
    /// Returns the entry whose key is the longest prefix of the image's name. Keys
    /// are `registry[/namespace…]`; Docker's form with `https://` and a path applies
    /// to the whole registry.
    fn credentials(
        &self,
        path: &Path,
        image: &RegistryReference,
    ) -> Result<Option<Credentials>, String> {
        let of_image = |key: &&String| is_prefix(&normal(key), &image.name());
        let mut keys: Vec<&String> = self.auths.keys().filter(of_image).collect();
        // Two spellings of the same name: the choice must be deterministic.
        keys.sort_by_key(|key| (std::cmp::Reverse(normal(key).len()), *key));
        for key in keys {
            let entry = &self.auths[key].0;
            let auth = go_json::from_slice::<Auth>(entry.to_string().as_bytes());
            let auth = auth.map_err(|error| format!("the entry of {key}: {error}"))?;
            if let Some(credentials) = auth.credentials(key, path)? {
                return Ok(Some(credentials));
            }
        }
        Ok(None)
    }

    /// The helper for the image's registry.
    fn helper(&self, image: &RegistryReference) -> Option<&str> {
        let mut helpers = self.cred_helpers.iter();
        let own = helpers.find(|(key, _)| is_prefix(&normal(key), &image.name()));
        let name = own.map_or(&self.creds_store, |(_, helper)| helper);
        name.0.as_str().filter(|name| !name.is_empty())
    }
}

/// Normalises a key to `registry[/namespace…]`, with Docker Hub's name as in
/// references.
fn normal(key: &str) -> String {
    let without = (key.strip_prefix("https://")).or_else(|| key.strip_prefix("http://"));
    let name = match without {
        Some(address) => address.split('/').next().unwrap_or(address),
        None => key.trim_end_matches('/'),
    };
    let (registry, namespace) = match name.split_once('/') {
        Some((registry, namespace)) => (registry, Some(namespace)),
        None => (name, None),
    };
    let registry = match registry {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    };
    match namespace {
        // Docker writes `index.docker.io/v1/` for Docker Hub.
        Some("v1" | "v2") if registry == DOCKER_HUB => registry.to_owned(),
        Some(namespace) => format!("{registry}/{namespace}"),
        None => registry.to_owned(),
    }
}

fn is_prefix(prefix: &str, name: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Auth {
    /// The credentials; `None` if the entry has none: Docker writes an empty one if a helper holds
    /// them, and an `auth` without a colon is ignored by Docker and skopeo.
    fn credentials(&self, key: &str, path: &Path) -> Result<Option<Credentials>, String> {
        // Like Go's decoder: base64(1) wraps its output after 76 columns.
        let encoded = self.auth.replace(['\r', '\n'], "");
        let decoded = (BASE64.decode(encoded))
            .map_err(|_| format!("the entry of {key} is not user:password in base64"))?;
        // The password may be in any encoding, so only the user is decoded.
        let mut parts = decoded.splitn(2, |byte| *byte == b':');
        let pair = parts.next().zip(parts.next());
        let (user, password) = match pair {
            // Docker once padded passwords with zeros.
            Some((user, password)) => (user, trimmed(password, 0)),
            None => (self.username.as_bytes(), self.password.as_bytes()),
        };
        if pair.is_none() && user.is_empty() && self.identitytoken.is_empty() {
            return Ok(None);
        }
        let joined = STANDARD.encode([user, b":", password].concat());
        Ok(Some(Credentials {
            user: String::from_utf8_lossy(user).into_owned(),
            secret: match self.identitytoken.as_str() {
                "" => Secret::Password(joined),
                token => Secret::IdentityToken {
                    token: token.to_owned(),
                    password: Some(joined).filter(|_| !password.is_empty()),
                },
            },
            file: path.to_owned(),
        }))
    }
}

/// `bytes` without leading and trailing `byte`.
fn trimmed(bytes: &[u8], byte: u8) -> &[u8] {
    let first = bytes.iter().position(|other| *other != byte);
    let last = bytes.iter().rposition(|other| *other != byte);
    match first.zip(last) {
        Some((first, last)) => &bytes[first..=last],
        None => &[],
    }
}

#[cfg(test)]
mod tests;
