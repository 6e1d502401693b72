//! The distribution's kernel for virtual machines, through apt and without root.
//!
//! apt checks signatures and hashes and knows mirrors and proxies; nothing of that is done here.
//! The host's own package lists are asked first. When they are missing, unreadable or too old to
//! fetch from, private ones are made in a scratch directory, which needs no rights at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use microagent_cas::{Digest, ScratchDir, Store};

use super::error::KernelError;
use super::package::Package;
use super::tool::Tool;
use crate::error::Error;

/// Packages that stand for the newest kernel for virtual machines: Debian's, then Ubuntu's.
const META_PACKAGES: &[&str] = &["linux-image-cloud-amd64", "linux-image-virtual"];

/// The packages a kernel consists of; all else a kernel package depends on is for installing it.
const PARTS: &[&str] = &["linux-image-", "linux-binary-", "linux-modules-"];

/// How many packages are looked at for one kernel, at the most. Three is what there is.
const MAX_PACKAGES: usize = 16;

/// A package as apt describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// The digest of its file, from the signed package list.
    pub(crate) digest: Digest,
    /// Its file's size in bytes.
    pub(crate) size: u64,
    depends: String,
}

/// apt with the host's package lists, or with private ones.
#[derive(Debug)]
pub(crate) struct Apt {
    private: Option<ScratchDir>,
}

impl Apt {
    /// apt as the host has it set up.
    pub(crate) fn of_host() -> Apt {
        Apt { private: None }
    }

    /// apt with the host's sources and keys, but with package lists of its own, fetched now.
    pub(crate) fn private(store: &Store) -> Result<Apt, Error> {
        let dir = store.scratch_dir()?;
        for name in ["state/lists/partial", "cache/archives/partial"] {
            let path = dir.path().join(name);
            fs::create_dir_all(&path)
                .map_err(|error| microagent_cas::StoreError::io("create", &path, error))?;
        }
        let apt = Apt { private: Some(dir) };
        apt.tool("apt-get", &["update"]).output()?;
        Ok(apt)
    }

    fn tool(&self, program: &'static str, what: &[&str]) -> Tool {
        let mut options = vec!["-q".to_owned()];
        if let Some(dir) = &self.private {
            let dir = dir.path().display();
            options.extend([
                format!("-oDir::State={dir}/state"),
                "-oDir::State::status=/var/lib/dpkg/status".to_owned(),
                format!("-oDir::Cache={dir}/cache"),
            ]);
        }
        Tool::new(program, what).args(options)
    }

    /// The packages that make up the newest kernel for virtual machines.
    pub(crate) fn kernel_packages(&self) -> Result<Vec<Candidate>, KernelError> {
        let meta = META_PACKAGES
            .iter()
            .find_map(|name| self.show(name).transpose());
        let meta = meta.unwrap_or_else(|| {
            Err(KernelError::NoKernelPackage {
                tried: META_PACKAGES.join(", "),
            })
        })?;
        let mut wanted = parts(&meta.depends);
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        while let Some(name) = wanted.pop() {
            if !seen.insert(name.clone()) || seen.len() > MAX_PACKAGES {
                continue;
            }
            let package = self.show(&name)?.ok_or_else(|| KernelError::BadPackage {
                name: meta.name.clone(),
                why: format!("it depends on {name}, which is not offered"),
            })?;
            wanted.extend(parts(&package.depends));
            found.push(package);
        }
        if found.is_empty() {
            let why = "it depends on no kernel".to_owned();
            return Err(KernelError::BadPackage {
                name: meta.name,
                why,
            });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// What apt would install for a name; `None` when it knows none.
    fn show(&self, name: &str) -> Result<Option<Candidate>, KernelError> {
        // Not `show` alone: for a name it does not know it fails as for anything else.
        let known = self.tool("apt-cache", &["policy", name]).output()?;
        let known = String::from_utf8_lossy(&known);
        let Some(version) = known
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
        else {
            return Ok(None);
        };
        if version == "(none)" {
            return Ok(None);
        }
        let exact = format!("{name}={version}");
        let shown = self.tool("apt-cache", &["show", &exact]).output()?;
        parse(&String::from_utf8_lossy(&shown))
            .map(Some)
            .ok_or_else(|| KernelError::BadPackage {
                name: exact,
                why: "apt describes it without name, version, size or SHA256".to_owned(),
            })
    }

    /// Downloads a package into `dir`; apt checks it against the signed list.
    pub(crate) fn download(&self, package: &Candidate, dir: &Path) -> Result<Package, Error> {
        let name = format!("{}={}", package.name, package.version);
        let before = entries(dir)?;
        self.tool("apt-get", &["download", &name])
            .current_dir(dir)
            .output()?;
        let path = entries(dir)?
            .into_iter()
            .find(|path| !before.contains(path));
        let path = path.ok_or_else(|| KernelError::Program {
            program: format!("apt-get download {name}"),
            detail: "it brought no file".to_owned(),
        })?;
        let unreadable = |source| KernelError::Unreadable {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(unreadable)?;
        let (actual, _) = microagent_cas::digest_file(&file, &path)?;
        if actual != package.digest {
            let expected = package.digest;
            return Err(KernelError::WrongDigest {
                name,
                expected,
                actual,
            }
            .into());
        }
        Ok(Package { name, file })
    }
}

fn entries(dir: &Path) -> Result<BTreeSet<std::path::PathBuf>, Error> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
    });
    Ok(listed.map_err(|error| microagent_cas::StoreError::io("list", dir, error))?)
}

/// The kernel parts in a `Depends:` field (deb822, Debian policy 7.1): names by comma, versions in
/// parentheses, of alternatives the first.
fn parts(depends: &str) -> Vec<String> {
    let names = depends.split(',').filter_map(|dependency| {
        let first = dependency.split('|').next().unwrap_or_default();
        first
            .split_whitespace()
            .next()
            .map(|name| name.split(':').next().unwrap_or(name))
    });
    // `linux-image-6.1.0-…` and `linux-image-generic`, but not `linux-image-extra…` tools.
    names
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .filter(|name| name.bytes().any(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// The first paragraph of what `apt-cache show` prints.
fn parse(shown: &str) -> Option<Candidate> {
    let field = |name: &str| {
        let paragraph = shown.lines().take_while(|line| !line.trim().is_empty());
        paragraph
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()))
    };
    Some(Candidate {
        name: field("Package")?,
        version: field("Version")?,
        digest: Digest::from_hex(&field("SHA256")?).ok()?,
        size: field("Size")?.parse().ok()?,
        depends: [field("Pre-Depends"), field("Depends")]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(","),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_parts_are_picked_from_depends() {
        let debian = "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(parts(debian), ["linux-image-6.1.0-56-cloud-amd64"]);
        let ubuntu = "kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-31-generic";
        assert_eq!(parts(ubuntu), ["linux-modules-6.8.0-31-generic"]);
        let either = "linux-image-6.8.0-31-generic | linux-image-unsigned-6.8.0-31-generic";
        assert_eq!(parts(either), ["linux-image-6.8.0-31-generic"]);
        assert_eq!(
            parts("linux-image-6.1:amd64,libc6, , |"),
            ["linux-image-6.1"]
        );
        assert_eq!(parts(""), [""; 0]);
    }

    #[test]
    fn a_description_is_read_from_its_first_paragraph() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let shown = format!(
            "Package: a\nVersion: 1:2-3\nDepends: b (= 1), c\nSize: 7\nDescription: x\n y: z\n\
             SHA256: {hex}\n\nPackage: other\nVersion: 9\n"
        );
        let candidate = parse(&shown).unwrap();
        assert_eq!(candidate.name, "a");
        assert_eq!(candidate.version, "1:2-3");
        assert_eq!(candidate.digest, Digest::of(b"abc"));
        assert_eq!(
            (candidate.size, candidate.depends.as_str()),
            (7, "b (= 1), c")
        );
        assert_eq!(parse("Package: a\n\nVersion: 1\n"), None);
    }
}
