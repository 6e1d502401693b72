//! The configuration file for mirrors and insecure registries (docs/registries.md):
//!
//! ```json
//! {"registries": {
//!     "docker.io":    {"mirrors": ["mirror.example:5000/hub"]},
//!     "reg.lan:5000": {"insecure": true}
//! }}
//! ```
//!
//! A key is a registry as in references. Mirrors are tried in order before the
//! registry itself; the path of a mirror is prepended to the repository. A mirror is
//! insecure if it has its own entry with `insecure`; mirrors in that entry are
//! ignored.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::diagnosis::{Diagnosis, ErrorKind};
use crate::image::reference::{Reference, RegistryReference, host_of};

/// Maximum length of the file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The configuration of registries. The default has no entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    entries: Arc<BTreeMap<String, Entry>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mirrors: Vec<Mirror>,
    insecure: bool,
}

/// The location of a registry's images on another server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    /// `host[:port]`
    registry: String,
    /// The prefix of repositories there; empty, or without leading and trailing slash.
    prefix: String,
}

/// The registries file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the registries file {} cannot be used", path.display())]
pub struct RegistriesError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub problem: RegistriesProblem,
}

/// Why a registries file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages document the variants
pub enum RegistriesProblem {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is longer than {MAX_FILE} bytes")]
    TooLong,
    #[error("it is not valid")]
    Malformed(#[source] serde_json::Error),
    #[error("invalid registry {0:?}, expected for example \"reg.example:5000\"")]
    Key(String),
    #[error("invalid mirror {0:?}, expected for example \"mirror.example:5000/path\"")]
    Mirror(String),
}

impl Diagnosis for RegistriesError {
    fn kind(&self) -> ErrorKind {
        match &self.problem {
            RegistriesProblem::Read(error) => match error.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Host,
            },
            _ => ErrorKind::Usage,
        }
    }

    fn remediation(&self) -> Option<String> {
        Some(match &self.problem {
            RegistriesProblem::Read(_) => {
                "check the path and its permissions, or unset MICROAGENT_REGISTRIES".into()
            }
            _ => r#"the format is {"registries":{"NAME":{"mirrors":["HOST[:PORT][/PATH]"],"insecure":false}}}"#.into(),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    registries: BTreeMap<String, EntryInFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryInFile {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    insecure: bool,
}

impl Registries {
    /// Reads the file `path`.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown field, or an invalid registry or mirror.
    pub fn read(path: &Path) -> Result<Registries, RegistriesError> {
        read(path).map_err(|problem| RegistriesError {
            path: path.to_owned(),
            problem,
        })
    }

    /// Like [`Registries::read`]; a missing file is like an empty one.
    ///
    /// # Errors
    /// See [`Registries::read`].
    pub fn read_if_present(path: &Path) -> Result<Registries, RegistriesError> {
        match Registries::read(path) {
            Err(RegistriesError {
                problem: RegistriesProblem::Read(error),
                ..
            }) if error.kind() == io::ErrorKind::NotFound => Ok(Registries::default()),
            result => result,
        }
    }

    /// The same image at each mirror of its registry, in their order.
    pub(super) fn mirrored(&self, image: &RegistryReference) -> Vec<RegistryReference> {
        let Some(entry) = self.entries.get(&image.registry) else {
            return Vec::new();
        };
        let at = |mirror: &Mirror| {
            let repository = match mirror.prefix.as_str() {
                "" => image.repository.clone(),
                prefix => format!("{prefix}/{}", image.repository),
            };
            RegistryReference {
                registry: mirror.registry.clone(),
                repository,
                ..image.clone()
            }
        };
        entry.mirrors.iter().map(at).collect()
    }

    /// Whether a registry is used without certificate verification.
    pub(super) fn is_insecure(&self, registry: &str) -> bool {
        (self.entries.get(registry)).is_some_and(|entry| entry.insecure)
    }

    /// Whether a host is used without certificate verification, on any port: the
    /// token server and the storage of a registry often use other ports.
    pub(super) fn is_insecure_host(&self, host: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(name, entry)| entry.insecure && host_of(name).eq_ignore_ascii_case(host))
    }
}

fn read(path: &Path) -> Result<Registries, RegistriesProblem> {
    let file = std::fs::File::open(path).map_err(RegistriesProblem::Read)?;
    let mut bytes = Vec::new();
    (file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(RegistriesProblem::Read)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(RegistriesProblem::TooLong),
        false => parse(&bytes),
    }
}

fn parse(bytes: &[u8]) -> Result<Registries, RegistriesProblem> {
    let file: File = serde_json::from_slice(bytes).map_err(RegistriesProblem::Malformed)?;
    let mut entries = BTreeMap::new();
    for (key, entry) in file.registries {
        let name = as_registry(&key).ok_or_else(|| RegistriesProblem::Key(shown(&key)))?;
        let mirrors = entry.mirrors.iter().map(|text| mirror(text));
        let entry = Entry {
            mirrors: mirrors.collect::<Result<_, _>>()?,
            insecure: entry.insecure,
        };
        entries.insert(name, entry);
    }
    Ok(Registries {
        entries: Arc::new(entries),
    })
}

/// Normalises a registry name as in references; `None` if it is invalid.
fn as_registry(text: &str) -> Option<String> {
    // The parser of references decides.
    match format!("{text}/a/b").parse() {
        Ok(Reference::Registry(reference)) if reference.repository == "a/b" => {
            Some(reference.registry)
        }
        _ => None,
    }
}

fn mirror(text: &str) -> Result<Mirror, RegistriesProblem> {
    let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
    let invalid = || RegistriesProblem::Mirror(shown(text));
    let registry = as_registry(host).ok_or_else(invalid)?;
    let whole = match prefix {
        "" if text.ends_with('/') => return Err(invalid()),
        "" => "a/b".to_owned(),
        prefix => format!("{prefix}/a/b"),
    };
    match format!("{host}/{whole}").parse() {
        Ok(Reference::Registry(parsed)) if parsed.repository == whole => Ok(Mirror {
            registry,
            prefix: prefix.to_owned(),
        }),
        _ => Err(invalid()),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(text: &str) -> RegistryReference {
        match text.parse() {
            Ok(Reference::Registry(reference)) => reference,
            other => panic!("{other:?}"),
        }
    }

    fn mirrors(file: &str, of: &str) -> Vec<String> {
        let registries = parse(file.as_bytes()).unwrap();
        let mirrored = registries.mirrored(&image(of));
        mirrored.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_mirror_is_used_with_its_prefix() {
        let file = r#"{"registries":{"docker.io":{"mirrors":["m.example:5000/hub","localhost:1"]},
            "[::1]:5000":{"insecure":true}}}"#;
        assert_eq!(
            mirrors(file, "busybox:1"),
            [
                "m.example:5000/hub/library/busybox:1",
                "localhost:1/library/busybox:1"
            ]
        );
        assert_eq!(mirrors(file, "ghcr.io/a/b"), [""; 0]);
        let old = r#"{"registries":{"index.docker.io":{"mirrors":["m.example"]}}}"#;
        assert_eq!(mirrors(old, "a/b"), ["m.example/a/b:latest"]);
    }

    #[test]
    fn insecure_applies_to_the_registry_and_its_host() {
        let file = r#"{"registries":{"reg.lan:5000":{"insecure":true},"b.lan":{}}}"#;
        let registries = parse(file.as_bytes()).unwrap();
        assert!(registries.is_insecure("reg.lan:5000"));
        assert!(!registries.is_insecure("reg.lan"));
        assert!(registries.is_insecure_host("REG.lan"));
        assert!(!registries.is_insecure_host("b.lan"));
        assert!(!registries.is_insecure_host("evil.reg.lan"));
    }

    #[test]
    fn errors_name_the_invalid_value() {
        let refusal = |file: &str| match parse(file.as_bytes()).unwrap_err() {
            RegistriesProblem::Malformed(error) => error.to_string(),
            other => other.to_string(),
        };
        for (file, expected) in [
            (
                r#"{"registries":{"a.b":{"insecur":true}}}"#,
                "unknown field `insecur`, expected `mirrors` or `insecure`",
            ),
            (
                r#"{"registry":{}}"#,
                "unknown field `registry`, expected `registries`",
            ),
            (
                r#"{"registries":{"busybox":{}}}"#,
                "invalid registry \"busybox\"",
            ),
            (
                r#"{"registries":{"a.b/c":{}}}"#,
                "invalid registry \"a.b/c\"",
            ),
            (r#"{"registries":{"":{}}}"#, "invalid registry \"\""),
            (
                r#"{"registries":{"a.b":{"mirrors":["https://m.b"]}}}"#,
                "invalid mirror \"https://m.b\"",
            ),
            (
                r#"{"registries":{"a.b":{"mirrors":["m.b/"]}}}"#,
                "invalid mirror \"m.b/\"",
            ),
            (
                r#"{"registries":{"a.b":{"mirrors":["m.b/Up"]}}}"#,
                "invalid mirror \"m.b/Up\"",
            ),
            (
                r#"{"registries":{"a.b":{"mirrors":["m.b/x@y"]}}}"#,
                "invalid mirror \"m.b/x@y\"",
            ),
        ] {
            let message = refusal(file);
            assert!(message.starts_with(expected), "{file}: {message}");
        }
        assert!(parse(b"{}").unwrap() == Registries::default());
    }

    proptest! {
        #[test]
        fn no_name_causes_a_panic(key in "\\PC{0,20}", mirror in "\\PC{0,20}") {
            let file = serde_json::json!({ "registries": { key: { "mirrors": [mirror] } } });
            let _ = parse(file.to_string().as_bytes());
        }
    }
}
