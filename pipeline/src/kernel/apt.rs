//! Downloads the distribution's kernel for virtual machines through apt, without root.
//!
//! apt verifies signatures and hashes and handles mirrors and proxies. The host's package lists are
//! used first. If they are missing, unreadable or outdated, private lists are downloaded into a
//! scratch directory, which needs no privileges.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use microagent_cas::{Digest, ScratchDir, Store};

use super::error::{KernelError, KernelFailure};
use super::package::Package;
use super::tool::Tool;

/// Metapackages of the newest kernel for virtual machines: Debian's, then Ubuntu's.
const META_PACKAGES: &[&str] = &["linux-image-cloud-amd64", "linux-image-virtual"];

/// Name prefixes of the packages of a kernel. A kernel package's other dependencies are needed only
/// to install it. Debian's kernels since 7.0 have the image in `linux-binary-`, the list of
/// built-in modules in `linux-base-`, and nothing but dependencies in `linux-image-`.
const PARTS: &[&str] = &[
    "linux-image-",
    "linux-binary-",
    "linux-modules-",
    "linux-base-",
];

/// Maximum number of packages of one kernel. Existing kernels have up to four.
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
    /// The size of its file in bytes.
    pub(crate) size: u64,
    depends: String,
}

/// apt with the host's package lists, or with private ones.
#[derive(Debug)]
pub(crate) struct Apt {
    private: Option<ScratchDir>,
}

impl Apt {
    /// apt with the host's package lists.
    pub(crate) fn host() -> Apt {
        Apt { private: None }
    }

    /// apt with the host's sources and keys and newly downloaded private package lists, and the
    /// kernel packages in them.
    pub(crate) fn private(store: &Store) -> Result<(Apt, Vec<Candidate>), KernelFailure> {
        let apt = Apt::without_lists(store)?;
        // A single broken source, or a hook on the host that needs root, fails the update although
        // the lists were downloaded. The error only matters if they do not contain the kernel.
        let updated = apt.tool("apt-get", &["update"]).output();
        match (updated, apt.kernel_packages()) {
            (_, Ok(packages)) => Ok((apt, packages)),
            (Err(error), Err(_)) | (Ok(_), Err(error)) => Err(error.into()),
        }
    }

    /// apt with the host's sources and keys and newly downloaded private package lists. Lists that
    /// cannot be downloaded are missing.
    pub(crate) fn updated(store: &Store) -> Result<Apt, KernelFailure> {
        let apt = Apt::without_lists(store)?;
        if let Err(error) = apt.tool("apt-get", &["update"]).output() {
            tracing::debug!(%error, "some package lists could not be downloaded");
        }
        Ok(apt)
    }

    /// apt with the host's sources and keys and a private, empty directory for lists.
    fn without_lists(store: &Store) -> Result<Apt, KernelFailure> {
        let dir = store.scratch_dir()?;
        for name in ["state/lists/partial", "cache/archives/partial"] {
            let path = dir.path().join(name);
            fs::create_dir_all(&path)
                .map_err(|error| microagent_cas::StoreError::io("create", &path, error))?;
        }
        Ok(Apt { private: Some(dir) })
    }

    /// The candidate version of a package; `None` if apt does not know the package.
    pub(crate) fn package(&self, name: &str) -> Result<Option<Candidate>, KernelError> {
        let shown = self.show(&[name])?;
        Ok(shown.into_iter().find(|package| package.name == name))
    }

    fn tool(&self, program: &'static str, what: &[&str]) -> Tool {
        let mut options = vec!["-q".to_owned()];
        if let Some(dir) = &self.private {
            let dir = dir.path().display();
            options.extend([
                format!("-oDir::State={dir}/state"),
                format!("-oDir::State::lists={dir}/state/lists"),
                "-oDir::State::status=/var/lib/dpkg/status".to_owned(),
                format!("-oDir::Cache={dir}/cache"),
                format!("-oDir::Cache::archives={dir}/cache/archives"),
            ]);
        }
        Tool::guarded(program, what).args(options)
    }

    /// The packages that make up the newest kernel for virtual machines.
    pub(crate) fn kernel_packages(&self) -> Result<Vec<Candidate>, KernelError> {
        let metas = self.show(META_PACKAGES)?;
        let meta = META_PACKAGES
            .iter()
            .find_map(|name| metas.iter().find(|p| p.name == *name));
        let meta = meta.ok_or_else(|| KernelError::NoKernelPackage {
            tried: META_PACKAGES.join(", "),
        })?;
        let bad = |why| KernelError::BadPackage {
            name: meta.name.clone(),
            why,
        };
        let mut found: Vec<Candidate> = Vec::new();
        let mut wanted = parts(&meta.depends);
        while !wanted.is_empty() {
            if found.len() + wanted.len() > MAX_PACKAGES {
                return Err(bad("it depends on too many kernels".to_owned()));
            }
            let shown = self.show(&wanted)?;
            if let Some(missing) = wanted
                .iter()
                .find(|name| shown.iter().all(|p| p.name != **name))
            {
                return Err(bad(format!(
                    "it depends on {missing}, which is not available"
                )));
            }
            found.extend(shown);
            wanted = found
                .iter()
                .flat_map(|package| parts(&package.depends))
                .collect();
            wanted.sort();
            wanted.dedup();
            wanted.retain(|name| found.iter().all(|package| package.name != *name));
        }
        if found.is_empty() {
            return Err(bad("it does not depend on a kernel".to_owned()));
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The candidate versions of packages, without those that apt does not know. One call for all,
    /// because apt is slow to load its lists.
    fn show<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<Candidate>, KernelError> {
        let names = names.iter().map(AsRef::as_ref);
        let tool = self
            .tool("apt-cache", &["show"])
            .args(["--no-all-versions"])
            .args(names);
        match tool.output() {
            Ok(shown) => {
                let shown = String::from_utf8_lossy(&shown);
                Ok(shown.split("\n\n").filter_map(parse).collect())
            }
            Err(KernelError::Program { detail, .. }) if detail == "No packages found" => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Downloads a package into `dir`; apt verifies it against the signed list.
    pub(crate) fn download(
        &self,
        package: &Candidate,
        dir: &Path,
    ) -> Result<Package, KernelFailure> {
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
            detail: "it created no file".to_owned(),
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

fn entries(dir: &Path) -> Result<BTreeSet<std::path::PathBuf>, KernelFailure> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
    });
    Ok(listed.map_err(|error| microagent_cas::StoreError::io("list", dir, error))?)
}

/// The kernel packages in a `Depends:` field (deb822, Debian policy 7.1): names are separated by
/// commas, versions are in parentheses, and of alternatives the first is used.
fn parts(depends: &str) -> Vec<String> {
    let names = depends.split(',').filter_map(|dependency| {
        let first = dependency.split('|').next().unwrap_or_default();
        first
            .split_whitespace()
            .next()
            .map(|name| name.split(':').next().unwrap_or(name))
    });
    // The name of a kernel package contains its version: `linux-image-6.1.0-…`. That of a
    // metapackage does not: `linux-base-cloud-amd64`.
    let is_version = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    names
        .filter(|name| PARTS.iter().any(|part| name.starts_with(part)))
        .filter(|name| name.split('-').any(is_version))
        .map(str::to_owned)
        .collect()
}

/// Parses one stanza of the output of `apt-cache show`.
fn parse(stanza: &str) -> Option<Candidate> {
    let field = |name: &str| {
        let mut fields = stanza.lines().filter_map(|line| line.split_once(": "));
        fields.find_map(|(key, value)| (key == name).then(|| value.trim().to_owned()))
    };
    let depends: Vec<_> = [field("Pre-Depends"), field("Depends")]
        .into_iter()
        .flatten()
        .collect();
    Some(Candidate {
        name: field("Package")?,
        version: field("Version")?,
        digest: Digest::from_hex(&field("SHA256")?).ok()?,
        size: field("Size")?.parse().ok()?,
        depends: depends.join(","),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_packages_are_found_in_depends() {
        let debian = "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(parts(debian), ["linux-image-6.1.0-56-cloud-amd64"]);
        let ubuntu = "kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-31-generic";
        assert_eq!(parts(ubuntu), ["linux-modules-6.8.0-31-generic"]);
        let sid = "dracut | initramfs-tools (>= 0.120+deb8u2), linux-base (>= 4.17~), \
                   linux-base-cloud-amd64 (= 7.2.13-1), \
                   linux-base-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), \
                   linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)";
        assert_eq!(
            parts(sid),
            [
                "linux-base-7.2.13+deb14-cloud-amd64",
                "linux-binary-7.2.13+deb14-cloud-amd64"
            ]
        );
        let either = "linux-image-6.8.0-31-generic | linux-image-unsigned-6.8.0-31-generic";
        assert_eq!(parts(either), ["linux-image-6.8.0-31-generic"]);
        assert_eq!(
            parts("linux-image-6.1:amd64,libc6, , |"),
            ["linux-image-6.1"]
        );
        assert_eq!(parts(""), [""; 0]);
    }

    #[test]
    fn a_stanza_needs_name_version_size_and_digest() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let shown = format!(
            "Package: a\nVersion: 1:2-3\nDepends: b (= 1), c\nSize: 7\nDescription: x\n y: z\n\
             SHA256: {hex}\n"
        );
        let candidate = parse(&shown).unwrap();
        assert_eq!(candidate.name, "a");
        assert_eq!(candidate.version, "1:2-3");
        assert_eq!(candidate.digest, Digest::of(b"abc"));
        assert_eq!(
            (candidate.size, candidate.depends.as_str()),
            (7, "b (= 1), c")
        );
        for field in ["Package", "Version", "Size", "SHA256"] {
            assert_eq!(
                parse(&shown.replace(&format!("{field}: "), "Other: ")),
                None,
                "{field}"
            );
        }
    }
}
