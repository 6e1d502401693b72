//! The grammar of references.

use std::path::PathBuf;

use microagent_cas::Digest;

use super::error::{MAX_NAME, ReferenceProblem};
use super::{DOCKER_HUB, Reference, RegistryReference, Selector};

/// The maximum length of a reference, in bytes.
const MAX_LEN: usize = 4096;
/// Other transports of skopeo and podman, which do not read these as names either.
const TRANSPORTS: [&str; 3] = ["dir:", "containers-storage:", "docker-daemon:"];
/// The maximum length of a tag (`distribution`'s grammar).
const MAX_TAG: usize = 128;
/// Parses a reference in any form.
pub(super) fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
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
    if let Some(transport) = TRANSPORTS
        .iter()
        .find(|transport| text.starts_with(**transport))
    {
        return Err(ReferenceProblem::Transport(transport));
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
    // A colon after the last slash introduces a tag; one before it, a port.
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
/// registry if it cannot be a Docker Hub user: it has a dot or a port, or is
/// `localhost`.
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
