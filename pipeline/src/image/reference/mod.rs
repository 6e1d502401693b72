//! Image references, as typed by a user.
//!
//! | form | names |
//! |---|---|
//! | `[registry/]repository[:tag][@sha256:…]` | an image of a registry, by default Docker Hub |
//! | `oci:DIR[:tag]`, `oci:DIR@sha256:…` | an image of an OCI image layout on disk |
//! | `oci-archive:FILE[:tag]`, `oci-archive:FILE@sha256:…` | the same layout in one tar file |
//! | `docker-archive:FILE[:ref]` | an image of a `docker save` file |
//!
//! The grammar of the first form is that of the `distribution` project
//! (`reference` package); a leading `docker://`, as printed by skopeo, is
//! accepted. In the other forms the path ends at the first colon, as in skopeo, and
//! `@N` in place of a name is the image number N of the archive, counted from 0.

mod error;
mod parse;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use microagent_cas::Digest;

pub use error::{ReferenceError, ReferenceProblem};

/// Docker Hub's name in references.
pub const DOCKER_HUB: &str = "docker.io";
/// The name of an image, parsed and in its full form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// An image of a registry.
    Registry(RegistryReference),
    /// An image of an OCI image layout directory.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// The image to use.
        select: Selector,
    },
    /// An image of an OCI image layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// The image to use.
        select: Selector,
    },
    /// An image of a `docker save` file.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The image to use, by a `RepoTags` entry; `None` for the only one.
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
    /// The tag; `latest` if neither tag nor digest was given.
    pub tag: Option<String>,
    /// The digest of the manifest; it has priority over the tag.
    pub digest: Option<Digest>,
}

/// Selects an image of a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The only image.
    Only,
    /// The image with this `org.opencontainers.image.ref.name`.
    Name(String),
    /// The image with this manifest or index.
    Digest(Digest),
}

impl Reference {
    /// Whether the reference may name another image later.
    ///
    /// Images in a registry or a layout directory are replaced in place, so
    /// only a digest pins an image there. An archive counts as immutable.
    pub fn is_mutable(&self) -> bool {
        match self {
            Reference::Registry(reference) => reference.digest.is_none(),
            Reference::OciLayout { select, .. } => !matches!(select, Selector::Digest(_)),
            Reference::OciArchive { .. } | Reference::DockerArchive { .. } => false,
        }
    }
}

impl RegistryReference {
    /// The host to connect to. For Docker Hub it differs from the name.
    pub fn endpoint(&self) -> &str {
        match self.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        }
    }

    /// The last component of `/manifests/…` in a request: the digest, or else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }

    /// Whether the registry is on this machine, where plain HTTP is allowed.
    pub fn is_loopback(&self) -> bool {
        is_loopback_host(host_of(&self.registry))
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Whether a host name or address (IPv6 without brackets) is a loopback one.
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
        parse::parse(text).map_err(|problem| ReferenceError {
            reference: text.chars().take(120).collect(),
            problem,
        })
    }
}

#[cfg(test)]
mod tests;
