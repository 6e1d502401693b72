//! What a person types to name an image.
//!
//! | form | names |
//! |---|---|
//! | `[registry/]repository[:tag][@sha256:…]` | an image of a registry; without a registry it is Docker Hub's |
//! | `oci:DIR[:tag]`, `oci:DIR@sha256:…` | an image of an OCI image layout on disk |
//! | `oci-archive:FILE[:tag]`, `oci-archive:FILE@sha256:…` | the same layout in one tar file |
//! | `docker-archive:FILE[:ref]` | an image of a `docker save` file |
//!
//! The grammar of the first form is the `distribution` project's (`reference`
//! package); a leading `docker://` is accepted because skopeo prints it. For
//! the other forms the path ends at the first colon, as it does for skopeo.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use microagent_cas::Digest;

use crate::diagnosis::{Diagnosis, ErrorKind};

/// Docker Hub's name in references.
pub const DOCKER_HUB: &str = "docker.io";
/// The longest reference that is looked at; a longer one is no reference.
const MAX_LEN: usize = 4096;
/// The longest tag (`distribution`'s grammar).
const MAX_TAG: usize = 128;
/// The longest registry and repository together (`distribution`'s grammar).
const MAX_NAME: usize = 255;

/// The name of an image, parsed and in its full form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An image of a registry.
    Registry(RegistryReference),
    /// An image of an OCI image layout directory.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Which of its images.
        select: Selector,
    },
    /// An image of an OCI image layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images.
        select: Selector,
    },
    /// An image of a `docker save` file.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which of its images, by a `RepoTags` entry; `None` when it holds only one.
        name: Option<String>,
    },
}

/// An image of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryReference {
    /// Host and optional port, as in `docker.io` or `[::1]:5000`.
    pub registry: String,
    /// The repository's path in the registry.
    pub repository: String,
    /// The tag; `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// The pinned manifest; it wins over the tag.
    pub digest: Option<Digest>,
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The only one.
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this.
    Name(String),
    /// The one whose manifest or index is this.
    Digest(Digest),
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reference:?} is not an image reference: {problem}")]
pub struct ReferenceError {
    /// What was given, cut to a length that fits a line.
    pub reference: String,
    /// What is wrong with it.
    pub problem: ReferenceProblem,
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the message of each says it
pub enum ReferenceProblem {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_NAME} characters")]
    TooLong,
    #[error("the registry {0:?} is not a host name with an optional port")]
    Registry(String),
    #[error("the repository {0:?} has upper-case letters")]
    UpperCase(String),
    #[error("{0:?} is not a repository name")]
    Repository(String),
    #[error("{0:?} is not a tag")]
    Tag(String),
    #[error("{0:?} is not a sha256 digest")]
    Digest(String),
    #[error("there is no path after {0:?}")]
    NoPath(&'static str),
}

impl Diagnosis for ReferenceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn remediation(&self) -> Option<String> {
        Some(match self.problem {
            ReferenceProblem::UpperCase(_) => {
                format!("write it in lower case: {}", self.reference.to_lowercase())
            }
            ReferenceProblem::NoPath(prefix) => format!("write {prefix}PATH or {prefix}PATH:TAG"),
            ReferenceProblem::Digest(_) => {
                "a digest is sha256: and 64 hexadecimal digits, as in busybox@sha256:9ae9…".into()
            }
            _ => "write it like docker.io/library/busybox:1.36, localhost:5000/app@sha256:…, \
                  oci:DIR:tag, oci-archive:FILE or docker-archive:FILE"
                .into(),
        })
    }
}

impl Reference {
    /// Whether the same reference may name another image tomorrow.
    ///
    /// A registry or a layout directory is rewritten in place, so only a
    /// digest pins an image there; an archive is one file, handed over whole.
    pub fn is_mutable(&self) -> bool {
        match self {
            Reference::Registry(reference) => reference.digest.is_none(),
            Reference::OciLayout { select, .. } => !matches!(select, Selector::Digest(_)),
            Reference::OciArchive { .. } | Reference::DockerArchive { .. } => false,
        }
    }
}

impl RegistryReference {
    /// The host to talk to, which for Docker Hub is not the one in its name.
    pub fn endpoint(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        }
    }

    /// What follows `/manifests/` in a request: the digest if there is one.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// Whether the registry is this machine, where plain HTTP is spoken.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(host_of(&self.registry))
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Whether a host's name or address (IPv6 without brackets) is this machine's own.
pub(crate) fn is_loopback_host(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub(crate) fn host_of(registry: &str) -> &str {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    registry.split(':').next().unwrap_or(registry)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Registry(reference) => reference.fmt(f),
            Reference::OciLayout { path, select } => write!(f, "oci:{}{select}", path.display()),
            Reference::OciArchive { path, select } => {
                write!(f, "oci-archive:{}{select}", path.display())
            }
            Reference::DockerArchive { path, name } => {
                write!(f, "docker-archive:{}", path.display())?;
                name.iter().try_for_each(|name| write!(f, ":{name}"))
            }
        }
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Only => Ok(()),
            Selector::Name(name) => write!(f, ":{name}"),
            Selector::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError {
            reference: text.chars().take(120).collect(),
            problem,
        })
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
    if text.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if text.len() > MAX_LEN {
        return Err(ReferenceProblem::TooLong);
    }
    if let Some(rest) = text.strip_prefix("oci:") {
        let (path, select) = layout_parts(rest, "oci:")?;
        return Ok(Reference::OciLayout { path, select });
    }
    if let Some(rest) = text.strip_prefix("oci-archive:") {
        let (path, select) = layout_parts(rest, "oci-archive:")?;
        return Ok(Reference::OciArchive { path, select });
    }
    if let Some(rest) = text.strip_prefix("docker-archive:") {
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(ReferenceProblem::NoPath("docker-archive:"));
        }
        if name.is_some_and(str::is_empty) {
            return Err(ReferenceProblem::Tag(String::new()));
        }
        return Ok(Reference::DockerArchive {
            path: path.into(),
            name: name.map(str::to_owned),
        });
    }
    let text = text.strip_prefix("docker://").unwrap_or(text);
    registry_reference(text).map(Reference::Registry)
}

fn layout_parts(rest: &str, prefix: &'static str) -> Result<(PathBuf, Selector), ReferenceProblem> {
    let (path, select) = if let Some((path, digest)) = rest.split_once("@sha256:") {
        let digest = format!("sha256:{digest}");
        match digest.parse() {
            Ok(parsed) => (path, Selector::Digest(parsed)),
            Err(_) => return Err(ReferenceProblem::Digest(digest)),
        }
    } else {
        match rest.split_once(':') {
            Some((_, "")) => return Err(ReferenceProblem::Tag(String::new())),
            Some((path, name)) => (path, Selector::Name(name.to_owned())),
            None => (rest, Selector::Only),
        }
    };
    if path.is_empty() {
        return Err(ReferenceProblem::NoPath(prefix));
    }
    Ok((path.into(), select))
}

fn registry_reference(text: &str) -> Result<RegistryReference, ReferenceProblem> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => match digest.parse::<Digest>() {
            Ok(parsed) => (rest, Some(parsed)),
            Err(_) => return Err(ReferenceProblem::Digest(digest.to_owned())),
        },
        None => (text, None),
    };
    // A colon is a tag's only after the last slash; before it, it is a port's.
    let after_slash = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[after_slash..].split_once(':') {
        Some((last, tag)) => (&rest[..after_slash + last.len()], Some(tag.to_owned())),
        None => (rest, None),
    };
    if let Some(tag) = tag.as_ref().filter(|tag| !is_tag(tag)) {
        return Err(ReferenceProblem::Tag(tag.clone()));
    }
    let (registry, repository) = split_registry(name)?;
    if registry.len() + repository.len() >= MAX_NAME {
        return Err(ReferenceProblem::TooLong);
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceProblem::UpperCase(repository));
    }
    if !repository.split('/').all(is_path_component) {
        return Err(ReferenceProblem::Repository(repository));
    }
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(RegistryReference {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Splits a name into registry and repository. The first component is a
/// registry if it could not be a Docker Hub user: it has a dot or a port, or
/// is `localhost`.
fn split_registry(name: &str) -> Result<(String, String), ReferenceProblem> {
    let hub = |repository: &str| {
        let repository = match repository.contains('/') {
            true => repository.to_owned(),
            false => format!("library/{repository}"),
        };
        (DOCKER_HUB.to_owned(), repository)
    };
    let Some((first, rest)) = name.split_once('/') else {
        return Ok(hub(name));
    };
    let is_registry = first == "localhost" || first.starts_with('[') || first.contains(['.', ':']);
    if !is_registry {
        return Ok(hub(name));
    }
    if first == DOCKER_HUB || first == "index.docker.io" {
        return Ok(hub(rest));
    }
    if !is_registry_host(first) {
        return Err(ReferenceProblem::Registry(first.to_owned()));
    }
    Ok((first.to_owned(), rest.to_owned()))
}

fn is_registry_host(text: &str) -> bool {
    let (host_ok, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return false;
        };
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return false,
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let labels_ok = host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
        (labels_ok, port)
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    host_ok && port_ok
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes
            .split(|b| alphanumeric(*b))
            .all(|separator| match separator {
                b"" | b"." | b"_" | b"__" => true,
                other => other.iter().all(|b| *b == b'-'),
            })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7";

    fn full(text: &str) -> String {
        text.parse::<Reference>()
            .unwrap_or_else(|error| panic!("{error}"))
            .to_string()
    }

    #[test]
    fn short_names_are_docker_hubs() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("busybox:1.36"), "docker.io/library/busybox:1.36");
        assert_eq!(full("user/app"), "docker.io/user/app:latest");
        assert_eq!(
            full("docker.io/busybox"),
            "docker.io/library/busybox:latest"
        );
        assert_eq!(full("index.docker.io/a/b"), "docker.io/a/b:latest");
        assert_eq!(full("docker://busybox"), "docker.io/library/busybox:latest");
    }

    #[test]
    fn a_registry_is_told_from_a_user_by_dot_port_or_localhost() {
        assert_eq!(full("localhost/x"), "localhost/x:latest");
        assert_eq!(full("localhost:5000/x:t"), "localhost:5000/x:t");
        assert_eq!(full("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(full("[::1]:5000/x:1"), "[::1]:5000/x:1");
        assert_eq!(full("ghcr.io/o/p__q/r-s.t:v1"), "ghcr.io/o/p__q/r-s.t:v1");
    }

    #[test]
    fn a_digest_pins_and_a_tag_beside_it_is_kept() {
        let pinned = format!("busybox@sha256:{HEX}");
        assert_eq!(
            full(&pinned),
            format!("docker.io/library/busybox@sha256:{HEX}")
        );
        let both = format!("ghcr.io/a/b:v1@sha256:{HEX}");
        assert_eq!(full(&both), both);
        let Ok(Reference::Registry(reference)) = both.parse() else {
            panic!("not a registry reference");
        };
        assert_eq!(reference.manifest_name(), format!("sha256:{HEX}"));
        assert!(!both.parse::<Reference>().unwrap().is_mutable());
        assert!("busybox".parse::<Reference>().unwrap().is_mutable());
    }

    #[test]
    fn local_forms_split_at_the_first_colon() {
        assert_eq!(
            "oci:dir:a/b:c".parse(),
            Ok(Reference::OciLayout {
                path: "dir".into(),
                select: Selector::Name("a/b:c".into())
            })
        );
        assert_eq!(
            "docker-archive:f.tar:busybox:1".parse(),
            Ok(Reference::DockerArchive {
                path: "f.tar".into(),
                name: Some("busybox:1".into())
            })
        );
        assert_eq!(full(&format!("oci-archive:f@sha256:{HEX}")).len(), 14 + 71);
        assert_eq!(full("oci:dir"), "oci:dir");
    }

    #[test]
    fn the_error_names_the_reference_and_shows_a_right_one() {
        for (text, expected) in [
            ("", "\"\" is not an image reference: it is empty"),
            (
                "Busybox",
                "\"Busybox\" is not an image reference: the repository \"library/Busybox\" has upper-case letters",
            ),
            (
                "a:b c",
                "\"a:b c\" is not an image reference: \"b c\" is not a tag",
            ),
            (
                "a//b",
                "\"a//b\" is not an image reference: \"a//b\" is not a repository name",
            ),
            (
                "a@sha256:12",
                "\"a@sha256:12\" is not an image reference: \"sha256:12\" is not a sha256 digest",
            ),
            (
                "host:99999/x",
                "\"host:99999/x\" is not an image reference: the registry \"host:99999\" is not a host name with an optional port",
            ),
            (
                "oci:",
                "\"oci:\" is not an image reference: there is no path after \"oci:\"",
            ),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert!(error.remediation().is_some());
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |text: &str| match text.parse() {
            Ok(Reference::Registry(reference)) => reference.is_loopback(),
            other => panic!("{other:?}"),
        };
        for text in [
            "localhost/x",
            "localhost:1/x",
            "127.0.0.1:5000/x",
            "127.9.9.9/x",
            "[::1]:5000/x",
        ] {
            assert!(loopback(text), "{text}");
        }
        for text in [
            "localhost.example.com/x",
            "127.0.0.1.example.com/x",
            "busybox",
            "10.0.0.1:5000/x",
        ] {
            assert!(!loopback(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused_without_a_panic(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn the_full_form_parses_to_itself(
            registry in "(localhost|[a-z]{1,8}\\.[a-z]{2,3})(:[1-9][0-9]{0,3})?",
            repository in "[a-z0-9]{1,6}(/[a-z0-9]{1,4}(-{1,2}|_|__|\\.)[a-z0-9]{1,4}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            let mut text = format!("{registry}/{repository}");
            if let Some(tag) = tag { text = format!("{text}:{tag}"); }
            if pinned { text = format!("{text}@sha256:{HEX}"); }
            let parsed: Reference = text.parse().unwrap();
            prop_assert_eq!(&parsed.to_string().parse::<Reference>().unwrap(), &parsed);
            prop_assert!(parsed.to_string().starts_with(&text));
        }
    }
}
