//! Certificates that the guest trusts beside those of its image.
//!
//! There is no one place for them. They are added to each bundle that the image has ([`bundle`]), which
//! is what most programs read; to the directories from which distributions make their bundles, so that
//! one that is installed or made anew has them too; and they are provided at two paths that are the
//! same in every guest, for the variables of commands ([`CA_BUNDLE`], [`CA_EXTRA`]).
//!
//! All of it is on the root disk, and is made to agree with the request at each start. Paths are
//! resolved below the root. A file that is not a regular one of that disk is no bundle, whatever links
//! lead to it. No command runs meanwhile.

mod bundle;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use microagent_proto::agent::{CA_BUNDLE, CA_EXTRA, Trust};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstat, mkdirat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::files::open::{locate, open_in, root};

/// Where distributions have their bundles, the usual one first: it is made if there is none.
const BUNDLES: [&str; 6] = [
    // Debian, Alpine, Arch.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and Red Hat, where this is a link to the next one.
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // SUSE.
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // OpenSSL as its source configures it, and Alpine.
    "/etc/ssl/cert.pem",
];

/// Where distributions look for certificates when they make their bundles. The first is made if its
/// parent exists: a package that is installed later may need it.
const ANCHORS: [&str; 3] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/pki/trust/anchors",
];

/// The names of our files there begin so, and end with [`ANCHOR_END`].
const ANCHOR: &str = "microagent-";
const ANCHOR_END: &str = ".crt";

/// A larger file is no bundle.
const MAX_BUNDLE: u64 = 16 << 20;

/// The certificates cannot be added.
#[derive(Debug, thiserror::Error)]
#[error("cannot add certificates to {path}")]
pub struct TrustError {
    /// The file or directory.
    path: String,
    /// The error from the kernel.
    source: io::Error,
}

fn of(path: &str) -> impl FnOnce(io::Error) -> TrustError {
    move |source| TrustError {
        path: path.to_owned(),
        source,
    }
}

/// Makes the guest trust `trust`, and nothing that an earlier start added.
pub fn apply(trust: &Trust) -> Result<(), TrustError> {
    let root = root().map_err(of("/"))?;
    apply_in(&root, trust)
}

fn apply_in(root: &OwnedFd, trust: &Trust) -> Result<(), TrustError> {
    let certificates = &trust.certificates[..];
    if certificates.is_empty() && locate(root, Path::new(CA_EXTRA), false).is_err() {
        return Ok(());
    }
    if !certificates.is_empty() {
        // First, and removed last: an interrupted start is completed or undone by the next one.
        let extra = certificates.concat();
        replace(root, CA_EXTRA, |directory, name| {
            write_new(directory, name, extra.as_bytes())
        })
        .map_err(of(CA_EXTRA))?;
    }
    let mut found = None;
    for path in BUNDLES {
        if update(root, path, certificates).map_err(of(path))? {
            found.get_or_insert(path);
        }
    }
    for path in &trust.bundles {
        update(root, path, certificates).map_err(of(path))?;
    }
    for path in ANCHORS {
        anchor(root, path, certificates).map_err(of(path))?;
    }
    if certificates.is_empty() {
        for path in [CA_BUNDLE, CA_EXTRA] {
            remove(root, path).map_err(of(path))?;
        }
        return Ok(());
    }
    let all = match found {
        Some(path) => path,
        None => {
            let path = BUNDLES[0];
            let text = bundle::with_section(b"", certificates);
            replace(root, path, |directory, name| {
                write_new(directory, name, &text)
            })
            .map_err(of(path))?;
            path
        }
    };
    replace(root, CA_BUNDLE, |directory, name| {
        Ok(symlinkat(all, directory, name)?)
    })
    .map_err(of(CA_BUNDLE))
}

/// Gives the bundle at `path` these certificates; returns whether there is one. A bundle that has
/// only had those of earlier starts is removed.
fn update(root: &OwnedFd, path: &str, certificates: &[String]) -> io::Result<bool> {
    let Ok((directory, name)) = locate(root, Path::new(path), true) else {
        return Ok(false);
    };
    let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_bundle = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_dev == fstat(root)?.st_dev
        && u64::try_from(stat.st_size).is_ok_and(|size| size <= MAX_BUNDLE);
    if !is_bundle {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut before = Vec::new();
    File::from(openat(&directory, &name, flags, Mode::empty())?)
        .take(MAX_BUNDLE)
        .read_to_end(&mut before)?;
    let after = bundle::with_section(&before, certificates);
    if after == before {
        return Ok(true);
    }
    if after.is_empty() {
        unlinkat(&directory, &name, AtFlags::empty())?;
        return Ok(false);
    }
    // In place: the file keeps its owner, its mode and its links, and what is before the section is
    // not written to.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&directory, &name, flags, Mode::empty())?);
    let same = before
        .iter()
        .zip(&after)
        .take_while(|(one, other)| one == other);
    let same = same.count();
    file.seek(SeekFrom::Start(same as u64))?;
    file.write_all(after.get(same..).unwrap_or_default())?;
    file.set_len(after.len() as u64)?;
    Ok(true)
}

/// Makes our files in a directory of certificates these, if a distribution has it.
fn anchor(root: &OwnedFd, path: &str, certificates: &[String]) -> io::Result<()> {
    let directory = match open_directory(root, path) {
        Ok(directory) => directory,
        Err(_) if path != ANCHORS[0] || certificates.is_empty() => return Ok(()),
        Err(_) => match make_below(root, path) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(ANCHOR.as_bytes()) && name.ends_with(ANCHOR_END.as_bytes()) {
            unlinkat(&directory, entry.file_name(), AtFlags::empty())?;
        }
    }
    for (number, certificate) in certificates.iter().enumerate() {
        let name = format!("{ANCHOR}{number}{ANCHOR_END}");
        write_new(&directory, name.as_ref(), certificate.as_bytes())?;
    }
    Ok(())
}

fn open_directory(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
    let directory = open_in(root, Path::new(path), flags)?;
    // Not one of the kernel's file systems, to which a link may lead.
    match fstat(&directory)?.st_dev == fstat(root)?.st_dev {
        true => Ok(directory),
        false => Err(Errno::XDEV.into()),
    }
}

/// Makes a directory whose parent exists.
fn make_below(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let (parent, name) = split(path);
    let parent = open_directory(root, parent)?;
    mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    open_directory(root, path)
}

/// Makes the directories of `path` that are missing, removes what has its name, and calls `make`.
fn replace(
    root: &OwnedFd,
    path: &str,
    make: impl FnOnce(&OwnedFd, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let (parent, name) = split(path);
    let mut made = String::new();
    for part in parent.split('/').filter(|part| !part.is_empty()) {
        made = format!("{made}/{part}");
        match open_directory(root, &made) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_below(root, &made)?;
            }
            opened => drop(opened?),
        }
    }
    let directory = open_directory(root, parent)?;
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    make(&directory, Path::new(name))
}

/// Removes a file, and its directory if that is empty then.
fn remove(root: &OwnedFd, path: &str) -> io::Result<()> {
    let (parent, name) = split(path);
    let Ok(directory) = open_directory(root, parent) else {
        return Ok(());
    };
    match unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let (above, name) = split(parent);
    let _ = unlinkat(open_directory(root, above)?, name, AtFlags::REMOVEDIR);
    Ok(())
}

fn write_new(directory: impl AsFd, name: &Path, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    File::from(openat(directory, name, flags, mode)?).write_all(text)
}

/// The directory and the name in it of an absolute path.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::CWD;

    use super::*;

    const IMAGE: &str = "-----BEGIN CERTIFICATE-----\nMIIA\n-----END CERTIFICATE-----\n";
    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    const TWO: &str = "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n";

    /// A root with these files.
    struct Guest(tempfile::TempDir);

    impl Guest {
        fn new(files: &[(&str, &str)]) -> Guest {
            let guest = Guest(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = guest.path(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            guest
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.0.path().join(path.trim_start_matches('/'))
        }

        fn apply(&self, certificates: &[&str], bundles: &[&str]) -> Result<(), TrustError> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, self.0.path(), flags, Mode::empty()).unwrap();
            let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            apply_in(
                &root,
                &Trust {
                    certificates: owned(certificates),
                    bundles: owned(bundles),
                },
            )
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.path(path)).unwrap()
        }

        /// What the link of all certificates leads to, inside the root.
        fn all(&self) -> String {
            let target = fs::read_link(self.path(CA_BUNDLE)).unwrap();
            self.read(target.to_str().unwrap())
        }

        /// All files and links, and the content of the files.
        fn tree(&self) -> Vec<(std::path::PathBuf, Option<String>)> {
            let mut found = Vec::new();
            let mut open = vec![self.0.path().to_owned()];
            while let Some(directory) = open.pop() {
                for entry in fs::read_dir(directory).unwrap() {
                    let path = entry.unwrap().path();
                    match fs::symlink_metadata(&path).unwrap().is_dir() {
                        true => open.push(path),
                        false => {
                            let text = fs::read_to_string(&path).ok();
                            found.push((path, text));
                        }
                    }
                }
            }
            found.sort();
            found
        }
    }

    fn count(text: &str, certificate: &str) -> usize {
        text.matches(certificate).count()
    }

    #[test]
    fn every_bundle_of_the_image_has_them_once_and_loses_them_again() {
        let guest = Guest::new(&[
            ("/etc/ssl/certs/ca-certificates.crt", IMAGE),
            ("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", IMAGE),
            ("/opt/own.pem", IMAGE),
            ("/usr/local/share/keep", ""),
        ]);
        symlink(
            "/etc/ssl/certs/ca-certificates.crt",
            guest.path("/etc/ssl/cert.pem"),
        )
        .unwrap();
        let bundle = guest.path("/etc/ssl/certs/ca-certificates.crt");
        fs::set_permissions(&bundle, fs::Permissions::from_mode(0o640)).unwrap();
        let before = guest.tree();

        for certificates in [&[ONE, TWO][..], &[ONE, TWO], &[TWO]] {
            guest.apply(certificates, &["/opt/own.pem"]).unwrap();
            for path in [
                "/etc/ssl/certs/ca-certificates.crt",
                "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
                "/opt/own.pem",
            ] {
                let text = guest.read(path);
                assert!(text.starts_with(IMAGE), "{path}: {text}");
                let expected = usize::from(certificates.contains(&ONE));
                assert_eq!(count(&text, ONE), expected, "{path}: {text}");
                assert_eq!(count(&text, TWO), 1, "{path}: {text}");
            }
            assert_eq!(guest.read(CA_EXTRA), certificates.concat());
            assert_eq!(
                guest.all(),
                guest.read("/etc/ssl/certs/ca-certificates.crt")
            );
            let anchors = guest.path("/usr/local/share/ca-certificates");
            assert_eq!(fs::read_dir(anchors).unwrap().count(), certificates.len());
            assert_eq!(
                guest.read("/usr/local/share/ca-certificates/microagent-0.crt"),
                certificates[0]
            );
        }
        let mode = fs::metadata(&bundle).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(
            fs::symlink_metadata(guest.path("/etc/ssl/cert.pem"))
                .unwrap()
                .is_symlink()
        );

        guest.apply(&[], &["/opt/own.pem"]).unwrap();
        assert_eq!(guest.tree(), before);
    }

    #[test]
    fn an_image_without_a_bundle_gets_one_and_loses_it_again() {
        let guest = Guest::new(&[("/bin/sh", "")]);
        guest.apply(&[], &[]).unwrap();
        let before = guest.tree();
        assert_eq!(before.len(), 1);
        for _ in 0..2 {
            guest.apply(&[ONE], &[]).unwrap();
            assert_eq!(count(&guest.all(), ONE), 1);
            assert_eq!(guest.read(CA_EXTRA), ONE);
        }
        // No distribution, no directory for its certificates.
        assert!(!guest.path("/usr").exists());
        guest.apply(&[], &[]).unwrap();
        assert_eq!(guest.tree(), before);
    }

    #[test]
    fn links_do_not_lead_out_of_the_root_or_to_what_is_no_bundle() {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim.pem");
        fs::write(&victim, IMAGE).unwrap();
        let guest = Guest::new(&[("/etc/ssl/certs/keep", ""), ("/etc/pki/tls/certs/keep", "")]);
        let up = "../".repeat(40);
        for (link, target) in [
            (
                "/etc/ssl/certs/ca-certificates.crt",
                victim.display().to_string(),
            ),
            ("/etc/ssl/cert.pem", format!("{up}{}", victim.display())),
            ("/etc/ssl/ca-bundle.pem", "/etc/ssl/ca-bundle.pem".into()),
            ("/etc/microagent", outside.path().display().to_string()),
        ] {
            symlink(target, guest.path(link)).unwrap();
        }
        let pipe = guest.path("/etc/pki/tls/certs/ca-bundle.crt");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        // A directory of ours that leads nowhere inside the root is an error that names it.
        let error = guest.apply(&[ONE], &[]).unwrap_err();
        assert_eq!(error.path, CA_EXTRA);
        fs::remove_file(guest.path("/etc/microagent")).unwrap();
        guest
            .apply(&[ONE], &["relative/../../..", "/etc/ssl"])
            .unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), IMAGE);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        // The dangling link at the usual path is replaced by a bundle.
        let bundle = guest.path("/etc/ssl/certs/ca-certificates.crt");
        assert!(fs::symlink_metadata(&bundle).unwrap().is_file());
        assert_eq!(count(&guest.all(), ONE), 1);
    }

    #[test]
    fn a_bundle_that_is_too_large_is_left_alone() {
        let guest = Guest::new(&[("/etc/ssl/cert.pem", IMAGE)]);
        let large = guest.path("/etc/ssl/cert.pem");
        let file = File::options().write(true).open(&large).unwrap();
        file.set_len(MAX_BUNDLE + 1).unwrap();
        guest.apply(&[ONE], &[]).unwrap();
        assert_eq!(fs::metadata(&large).unwrap().len(), MAX_BUNDLE + 1);
        assert_eq!(count(&guest.all(), ONE), 1);
    }
}
