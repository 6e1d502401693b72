//! Registry credentials from the files that `docker login`, `podman login` and
//! `skopeo login` write (containers-auth.json(5)).
//!
//! If `$REGISTRY_AUTH_FILE` is set, only that file is read, and it must exist.
//! Otherwise the files are `$XDG_RUNTIME_DIR/containers/auth.json` and `config.json`
//! in `$DOCKER_CONFIG` or `~/.docker`; the first one with an entry for the image is
//! used, and missing files are ignored.
//!
//! A file may refer to a credential helper, which is a program. Helpers are never
//! run; the name is kept for the error message.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::RegistryProblem;
use crate::image::reference::{DOCKER_HUB, RegistryReference};

/// The variable with the path of the file.
const VARIABLE: &str = "REGISTRY_AUTH_FILE";
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
    /// A refresh token of the registry's token server.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.file.display())
    }
}

impl Credentials {
    /// The value of an `Authorization` header, for a user with a password.
    pub(super) fn basic(&self) -> Option<String> {
        match &self.secret {
            Secret::Password(joined) => Some(format!("Basic {joined}")),
            Secret::IdentityToken(_) => None,
        }
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

/// The parsed files.
#[derive(Debug)]
pub(super) struct Keyring {
    files: Vec<(PathBuf, AuthFile)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    auths: Option<HashMap<String, Auth>>,
    cred_helpers: Option<HashMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(…)")
    }
}

/// The paths of the files.
#[derive(Debug, PartialEq, Eq)]
enum SearchPath {
    Explicit(PathBuf),
    Default(Vec<PathBuf>),
}

fn search_path(variable: impl Fn(&str) -> Option<OsString>) -> SearchPath {
    let get = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = get(VARIABLE) {
        return SearchPath::Explicit(path.into());
    }
    let runtime = get("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    let docker = get("DOCKER_CONFIG").map(PathBuf::from);
    let home = || get("HOME").map(|home| Path::new(&home).join(".docker"));
    let docker = docker.or_else(home).map(|dir| dir.join("config.json"));
    SearchPath::Default(runtime.into_iter().chain(docker).collect())
}

impl Keyring {
    /// Reads the files selected by this process's environment.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] if a file cannot be read or is invalid, or if the
    /// explicitly configured file does not exist.
    pub(super) fn from_environment() -> Result<Keyring, RegistryProblem> {
        Keyring::read(search_path(|name| std::env::var_os(name)))
    }

    fn read(places: SearchPath) -> Result<Keyring, RegistryProblem> {
        let (paths, must_exist) = match places {
            SearchPath::Explicit(path) => (vec![path], true),
            SearchPath::Default(paths) => (paths, false),
        };
        let mut files = Vec::new();
        for path in paths {
            let reason = match read(&path) {
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(file) => {
                        files.push((path, file));
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Err(error) if is_absent(&error) && !must_exist => continue,
                Err(error) => error.to_string(),
            };
            return Err(RegistryProblem::AuthFile { path, reason });
        }
        Ok(Keyring { files })
    }

    /// A keyring of one file; `None` if it is invalid.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Keyring> {
        let file = serde_json::from_slice(bytes).ok()?;
        Some(Keyring {
            files: vec![(PathBuf::new(), file)],
        })
    }

    /// Looks up the credentials for `image` at its registry.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] if the entry is invalid.
    pub(super) fn find(&self, image: &RegistryReference) -> Result<Lookup, RegistryProblem> {
        let mut helper = Lookup::None;
        for (path, file) in &self.files {
            let found = file.credentials(path, image);
            let found = found.map_err(|reason| RegistryProblem::AuthFile {
                path: path.clone(),
                reason,
            })?;
            if let Some(credentials) = found {
                return Ok(Lookup::Credentials(credentials));
            }
            if let (Lookup::None, Some(name)) = (&helper, file.helper(image)) {
                helper = Lookup::Helper {
                    helper: name.escape_debug().take(64).collect(),
                    file: path.clone(),
                };
            }
        }
        Ok(helper)
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
        let mut best: Option<(usize, &String, &Auth)> = None;
        for (key, auth) in self.auths.iter().flatten() {
            let name = normal(key);
            let longer = best.is_none_or(|(length, known, _)| {
                // Two spellings of the same name: the choice must be deterministic.
                name.len() > length || (name.len() == length && key < known)
            });
            if longer && auth.is_present() && is_prefix(&name, &image.name()) {
                best = Some((name.len(), key, auth));
            }
        }
        best.map(|(_, key, auth)| auth.credentials(key, path))
            .transpose()
    }

    /// The helper for the image's registry.
    fn helper(&self, image: &RegistryReference) -> Option<&str> {
        let mut helpers = self.cred_helpers.iter().flatten();
        let own = helpers.find(|(key, _)| is_prefix(&normal(key), &image.name()));
        let name = own.map(|(_, helper)| helper).or(self.creds_store.as_ref());
        name.map(String::as_str).filter(|name| !name.is_empty())
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
    /// Whether the entry is not empty. Docker writes an empty one if a helper holds
    /// the credentials.
    fn is_present(&self) -> bool {
        let mut texts = [&self.auth, &self.identitytoken, &self.username].into_iter();
        texts.any(|text| text.as_ref().is_some_and(|text| !text.is_empty()))
    }

    fn credentials(&self, key: &str, path: &Path) -> Result<Credentials, String> {
        let joined = self.auth.as_deref().filter(|text| !text.is_empty());
        let (user, joined) = match joined {
            Some(joined) => {
                let decoded = STANDARD.decode(joined.trim()).unwrap_or_default();
                // The password may be in any encoding, so only the user is decoded.
                let colon = decoded.iter().position(|byte| *byte == b':');
                let user = colon.and_then(|colon| decoded.get(..colon));
                let user = user
                    .ok_or_else(|| format!("the entry of {key} is not user:password in base64"))?;
                let user = String::from_utf8_lossy(user).into_owned();
                (user, joined.trim().to_owned())
            }
            None => {
                let user = self.username.clone().unwrap_or_default();
                let password = self.password.as_deref().unwrap_or_default();
                let joined = STANDARD.encode(format!("{user}:{password}"));
                (user, joined)
            }
        };
        let token = self.identitytoken.clone().filter(|text| !text.is_empty());
        Ok(Credentials {
            user,
            secret: token.map_or(Secret::Password(joined), Secret::IdentityToken),
            file: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
