//! Who we are to a registry: the files that `docker login`, `podman login` and
//! `skopeo login` write (containers-auth.json(5)).
//!
//! `$REGISTRY_AUTH_FILE` alone, if it is set; otherwise
//! `$XDG_RUNTIME_DIR/containers/auth.json`, then `config.json` of
//! `$DOCKER_CONFIG` or `~/.docker`: the first with an entry for the image
//! counts. A file that is absent there is none; one that was named must exist.
//!
//! Credential helpers are programs that such a file names. They are never run;
//! it is only remembered that one was named, to be able to say so.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::RegistryProblem;
use crate::image::reference::{DOCKER_HUB, RegistryReference};

/// The variable that names the file.
const VARIABLE: &str = "REGISTRY_AUTH_FILE";
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What a registry is told, and the file it stands in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) secret: Secret,
    pub(super) file: PathBuf,
}

/// What proves it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// User and password, joined by a colon, in base64 as HTTP's Basic scheme
    /// has them.
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

/// What the files say about a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Nothing,
    Credentials(Credentials),
    /// Only that this helper would know.
    Helper {
        helper: String,
        file: PathBuf,
    },
}

/// The files, read.
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

/// Where the files are.
#[derive(Debug, PartialEq, Eq)]
enum Places {
    Named(PathBuf),
    Usual(Vec<PathBuf>),
}

fn places(variable: impl Fn(&str) -> Option<OsString>) -> Places {
    let get = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(path) = get(VARIABLE) {
        return Places::Named(path.into());
    }
    let runtime = get("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    let docker = get("DOCKER_CONFIG").map(PathBuf::from);
    let home = || get("HOME").map(|home| Path::new(&home).join(".docker"));
    let docker = docker.or_else(home).map(|dir| dir.join("config.json"));
    Places::Usual(runtime.into_iter().chain(docker).collect())
}

impl Keyring {
    /// Reads the files of this process's environment.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] when one cannot be read or is not valid,
    /// or when one that was named is absent.
    pub(super) fn from_environment() -> Result<Keyring, RegistryProblem> {
        Keyring::read(places(|name| std::env::var_os(name)))
    }

    fn read(places: Places) -> Result<Keyring, RegistryProblem> {
        let (paths, must_exist) = match places {
            Places::Named(path) => (vec![path], true),
            Places::Usual(paths) => (paths, false),
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

    /// A keyring of one file; `None` if these bytes are none.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Keyring> {
        let file = serde_json::from_slice(bytes).ok()?;
        Some(Keyring {
            files: vec![(PathBuf::new(), file)],
        })
    }

    /// What is known for `image` at its registry.
    ///
    /// # Errors
    /// [`RegistryProblem::AuthFile`] when its entry makes no sense.
    pub(super) fn find(&self, image: &RegistryReference) -> Result<Known, RegistryProblem> {
        let mut helper = Known::Nothing;
        for (path, file) in &self.files {
            let found = file.credentials(path, image);
            let found = found.map_err(|reason| RegistryProblem::AuthFile {
                path: path.clone(),
                reason,
            })?;
            if let Some(credentials) = found {
                return Ok(Known::Credentials(credentials));
            }
            if let (Known::Nothing, Some(name)) = (&helper, file.helper(image)) {
                helper = Known::Helper {
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
        true => Err(io::Error::other("it is too long")),
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
    /// The entry whose key is the longest prefix of the image's name. Keys are
    /// `registry[/namespace…]`; Docker's form with `https://` and a path is
    /// for the registry alone.
    fn credentials(
        &self,
        path: &Path,
        image: &RegistryReference,
    ) -> Result<Option<Credentials>, String> {
        let mut best: Option<(usize, &String, &Auth)> = None;
        for (key, auth) in self.auths.iter().flatten() {
            let name = normal(key);
            let longer = best.is_none_or(|(length, known, _)| {
                // The same name in two forms: the choice must not be chance.
                name.len() > length || (name.len() == length && key < known)
            });
            if longer && auth.says_something() && is_prefix(&name, &image.name()) {
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

/// A key as `registry[/namespace…]`, with Docker Hub's name as references have it.
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
        // `index.docker.io/v1/` is how Docker has written the whole of it.
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
    /// Docker leaves an empty entry for what a helper keeps.
    fn says_something(&self) -> bool {
        let mut texts = [&self.auth, &self.identitytoken, &self.username].into_iter();
        texts.any(|text| text.as_ref().is_some_and(|text| !text.is_empty()))
    }

    fn credentials(&self, key: &str, path: &Path) -> Result<Credentials, String> {
        let joined = self.auth.as_deref().filter(|text| !text.is_empty());
        let (user, joined) = match joined {
            Some(joined) => {
                let decoded = STANDARD.decode(joined.trim()).unwrap_or_default();
                // A password may be in any encoding.
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
